"""The Dockerfile as data: its stages and instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.docs.pages import ROOT

_INSTRUCTION = re.compile(r"^([A-Z]+) +(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        word: in capitals, e.g. ``RUN``.
        text: its arguments, on one line.
        stage: the number of the stage it is in, from 0.
    """

    word: str
    text: str
    stage: int


def instructions() -> list[Instruction]:
    """All instructions in their order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Instruction] = []
    stage = -1
    for word, rest in _INSTRUCTION.findall(text):
        stage += word == "FROM"
        found.append(Instruction(word, re.sub(r" +", " ", rest), stage))
    return found


def texts(word: str) -> list[str]:
    """The arguments of each instruction of this word."""
    return [instruction.text for instruction in instructions() if instruction.word == word]


def variables() -> dict[str, str]:
    """What the image's environment holds."""
    last = instructions()[-1].stage
    pairs = (part for each in instructions() if (each.word, each.stage) == ("ENV", last) for part in each.text.split())
    return dict(pair.split("=", 1) for pair in pairs)
