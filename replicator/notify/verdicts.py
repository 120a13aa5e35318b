"""What a receiver's answer means, in our own words: theirs may repeat a secret."""

from __future__ import annotations

import json
from dataclasses import dataclass

from replicator.receivers import Format

_CODES = {Format.DINGTALK: "errcode", Format.WECOM: "errcode", Format.FEISHU: "code"}
"""Where an answer of 200 says whether the message was taken: 0."""
_AGAIN = {
    Format.DINGTALK: {-1: "it is busy", 130101: "too many messages", 410100: "too many messages"},
    Format.WECOM: {-1: "it is busy", 45009: "too many messages", 45033: "too many messages"},
    Format.FEISHU: {11232: "too many messages"},
}
"""Codes of what passes."""
_SETUP = "check the address, the secret behind #, and the robot's security settings"
_REFUSED = {
    Format.DINGTALK: {
        300005: "the robot is not known: copy its address anew",
        300001: "the robot is not known: copy its address anew",
        310000: "its security settings refuse it: secret behind #, keyword (replicator) or sender's address",
        430101: "a link is not allowed there",
    },
    Format.WECOM: {93000: "the robot is not known: copy its address anew"},
    Format.FEISHU: {
        19001: "the bot is not known: copy its address anew",
        19021: "the signature does not fit: check the secret behind #, and this machine's clock",
        19022: "the sender's address is not among those that the bot takes",
        19024: "the bot wants a keyword: make it replicator",
    },
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message.

    Attributes:
        taken: whether the receiver has it.
        words: what happened; of a failure, with what to do. No secret is in it.
        again: whether another try may go better.
        retry_after: seconds that the receiver asked to wait; None if it did not.
    """

    taken: bool
    words: str
    again: bool = False
    retry_after: float | None = None


def judge(form: Format, status: int, body: bytes, retry_after: float | None = None) -> Verdict:
    """Say what an answer means.

    Args:
        form: what the receiver understands.
        status: HTTP's.
        body: the beginning of it.
        retry_after: what the answer says of it, in seconds.
    """
    if 300 <= status < 400:
        return Verdict(False, f"{status}: it leads elsewhere, which is not followed: give the final address")
    if status == 429 or status >= 500:
        return Verdict(False, f"{status}: it can't take it now", again=True, retry_after=retry_after)
    if not 200 <= status < 300:
        return Verdict(False, f"{status}: refused: {_SETUP}")
    if form not in _CODES:
        return Verdict(True, f"{status}: taken")
    code = _code(body, _CODES[form])
    if code == 0:
        return Verdict(True, f"{status}: taken")
    if code is None:
        return Verdict(False, f"{status}, but no answer of {form}: is it the robot's address?")
    if (words := _AGAIN[form].get(code)) is not None:
        return Verdict(False, f"code {code}: {words}", again=True)
    return Verdict(False, f"code {code}: {_REFUSED[form].get(code, _SETUP)}")


def _code(body: bytes, name: str) -> int | None:
    try:
        answer = json.loads(body)
        # Feishu's older answers have it under another name.
        code = answer[name] if name in answer else answer["StatusCode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, int) else None
