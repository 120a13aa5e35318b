"""The man page is the commands' help."""

from __future__ import annotations

import re

from replicator.commands import EXAMPLES
from tests.docs.man_page import PAGE, man_page


def test_the_man_page_is_current() -> None:
    assert PAGE.read_text() == man_page(), "make docs regenerates it"


def test_every_command_and_no_line_that_troff_would_misread_is_in_it() -> None:
    lines = man_page().splitlines()
    assert [line.removeprefix(".SS replicator ") for line in lines if line.startswith(".SS ")] == list(EXAMPLES)
    assert all(
        line.split(" ")[0] in {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".nf", ".fi"}
        for line in lines
        if line[0] in ".'"
    )
    escapes = set(re.findall(r"\\(?:f.|.)", man_page()))
    assert escapes <= {r"\fB", r"\fI", r"\fR", r"\-", r"\&", r"\e"}
