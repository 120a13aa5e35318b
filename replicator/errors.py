"""The errors of this package, grouped by the right reaction to them, and the exit codes of the program.

    ReplicatorError                               base: what happened, why, and what to do                  permanent
    ├── ConfigError                               rules, settings or command line are invalid               permanent
    ├── replicator.retry.StoodStill          nothing moved in a copy for too long                      transient
    ├── replicator.queue.job.QueueError           the queue can't take or hand out work                     transient
    ├── replicator.registry.errors.RegistryError  a registry refused, failed or broke the protocol          permanent
    ├── replicator.copy.context.SourceNotFound    the source has no such tag or digest                      not yet
    ├── replicator.copy.context.AttestationsFound the image has attestations, and its rule allows none      permanent
    ├── replicator.replication.signing.NotGenuine  an attestation is damaged, changed or another key's     permanent
    ├── replicator.replication.tag_lists.LabelsUnknown  labels that a rule names can't be read              by cause
    └── replicator.replication.transfer.CopyFailed  a copy failed                                           by cause

The class of an error decides whether, and how patiently, its work is retried.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable


class ErrorClass(StrEnum):
    """What a failure means for the next attempt."""

    TRANSIENT = "transient"
    """A passing fault (network, 5xx, 429): retry with exponential back-off."""
    NOT_YET = "not yet"
    """A gate that opens later (a scan that has not passed, a tag that does not resolve yet): retry slowly."""
    CREDENTIALS = "credentials"
    """The login is refused: no attempt succeeds until a person changes it."""
    PERMANENT = "permanent"
    """The request itself can't succeed, however often it is repeated."""


def class_word(error_class: str) -> str:
    """Return the word for an `ErrorClass` in JSON and in the log, such as ``not_yet``."""
    return error_class.replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Wait:
    """The reason why failed work continues later without the loss of an attempt.

    Attributes:
        key: what the work waits for, e.g. a host that does not answer; empty if only time has to pass.
        since: when the reason began, in seconds since 1970.
        pause: seconds until the next look at the key; 0 if there is no better guess than a back-off.
        patience: seconds of waiting that count as one attempt, for work whose attempts are limited.
    """

    key: str
    since: float
    pause: float = 0.0
    patience: float = 60.0


_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
"""Python's prefix of an operating system error."""
_LONG_NAME = re.compile(r"(\bsha(?:256|512):[0-9a-f]{12}|/blobs/uploads/)[\w.=+/-]{20,}")
MAX_PART = 600
"""Characters of each part of an `ErrorText`."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """An error in words: at most three lines for a person, three fields for a program.

    Every place that carries the text of an error (a record in Redis, a row of a report, a finding) has one string in
    the form of `stored`. A text of one line, as older versions store it, is all ``what``.

    Attributes:
        what: what happened and where.
        why: the cause, e.g. in the other side's own words; may be empty.
        do: advice for a person; may be empty.
    """

    what: str = ""
    why: str = ""
    do: str = ""

    @classmethod
    def parse(cls, stored: str) -> ErrorText:
        """Read the form of `stored`."""
        what, why, do = (*stored.split("\n", 2), "", "")[:3]
        return cls(what, why, bounded_line(do, MAX_PART))

    @classmethod
    def of(cls, error: BaseException) -> ErrorText:
        """Return the text of any exception."""
        if isinstance(error, ReplicatorError):
            return cls(error.what, error.why, error.do).bounded()
        return cls(_ERRNO.sub("", str(error)) or type(error).__name__).bounded()

    @property
    def stored(self) -> str:
        """One line for each part; empty ones at the end are left out."""
        bounded = self.bounded()
        return "\n".join((bounded.what, bounded.why, bounded.do)).rstrip("\n")

    @property
    def lines(self) -> list[str]:
        """The parts that are not empty, as lines for a person: digests and names of uploads are shortened."""
        return [_LONG_NAME.sub(r"\1…", part) for part in (self.what, self.why, self.do) if part]

    @property
    def cause(self) -> str:
        """All but the advice, as one line."""
        return ": ".join(filter(None, (self.what, self.why)))

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.cause, self.do)))

    def bounded(self, most: int = MAX_PART) -> ErrorText:
        """Return it with parts of one printable line each, of at most so many characters."""
        return ErrorText(*(bounded_line(part, most) for part in (self.what, self.why, self.do)))

    def to_json(self) -> dict[str, str]:
        """Return the three fields."""
        return {"what": self.what, "why": self.why, "do": self.do}


def error_fields(stored: str | None) -> dict[str, str | None]:
    """Return the three fields of a stored text as JSON values; each is null where there is no error."""
    if stored is None:
        return {"what": None, "why": None, "do": None}
    return dict(ErrorText.parse(stored).to_json())


def bounded_line(text: str, limit: int) -> str:
    """Return one printable line of bounded length: foreign text must not be able to forge a log or drive a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


AGAIN = "nothing: it is retried automatically"
"""What to do where there is nothing to do but wait."""


class ReplicatorError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        what: what happened and where.
        why: the cause, as far as it is known, e.g. in the other side's own words; may be empty.
        do: advice for a person; may be empty.
        error_class: decides whether and how the work is retried.
        retry_after: seconds the other side asked to wait before the next attempt, if it did.
        wait: set if another attempt is of no use for now, and does not count as one.
        login: the fingerprint of the login that was refused (`replicator.registry.credentials.fingerprint`), if known.
        repeatable: whether the same request may succeed a moment later; if not, only the work as a whole is retried.
        reason: one word for a cause that is told apart within its class: ``denied``, ``immutable``; empty for others.
        costly: a body was sent in vain, over a line that may be paid for, so the work is retried a few times only.
    """

    error_class: ErrorClass = ErrorClass.PERMANENT
    retry_after: float | None = None
    wait: Wait | None = None
    login: str = ""
    repeatable: bool = True
    costly: bool = False
    reason: str = ""

    def __init__(self, what: str = "", why: str = "", do: str = "") -> None:
        super().__init__(*filter(None, (what, why, do)))
        self.what = what
        self.why = why
        self.do = do

    def __str__(self) -> str:
        # Built when it is asked for: where an error happened, and what to do, may be filled in on its way up.
        return str(ErrorText(self.what, self.why, self.do))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        path: its place, as keys joined by a dot or in brackets, e.g. ``images["h/r"].tags.semver``; empty if it
            concerns the whole.
        message: what is wrong and what to do.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ReplicatorError):
    """The rules file, the settings or the command line are invalid; nothing was started.

    Attributes:
        source: the file or place of the problems, e.g. ``rules.yaml``.
        problems: every problem found, in the order of the file.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)", "; ".join(map(str, self.problems)))

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {problem}" for problem in self.problems)])


SHORT_SECRET, LONG_SECRET = 4, 8
"""Characters that a secret has to have before it is cut from a text: a shorter one may be an ordinary word."""
_MOST_SECRETS = 512
_ROUNDS = 3
"""How often a text may be encoded, e.g. percent-encoded inside of JSON."""
_CUT = "***"


class SentLogins:
    """The logins that this process has sent last, which no text of others may show: some servers quote a request back.

    A search takes a time that grows with the length of the text, and little more: most texts have the beginning of no
    login in them.
    """

    def __init__(self, most: int = _MOST_SECRETS) -> None:
        self._most = most
        self._forms: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._beginnings: dict[int, frozenset[str]] = {}

    def sent(self, authorization: str) -> None:
        """Note a value of ``Authorization`` or ``Proxy-Authorization``, or any other secret, before it is sent."""
        if authorization in self._forms:
            self._forms.move_to_end(authorization)
            return
        scheme, _, value = authorization.partition(" ")
        secrets = [value or scheme]
        if scheme == "Basic":
            pair = base64.b64decode(value).decode("utf-8", "replace")
            bare = value.rstrip("=")
            secrets = [pair, bare, bare.translate(str.maketrans("+/", "-_")), pair.partition(":")[2]]
        forms = [form for secret in secrets for form in _forms(secret)]
        self._forms[authorization] = tuple(dict.fromkeys(forms))
        if len(self._forms) > self._most:
            self._forms.popitem(last=False)
        self._beginnings.clear()

    def cut(self, text: str, least: int = LONG_SECRET) -> str:
        """Return a text without these logins; without any words if one is in it in a form that is not foreseen.

        Args:
            text: of another side. If it is cut off within a login, so is the login.
            least: characters that a secret has to have.
        """
        for form in self._possible(text, least):
            text = text.replace(form, _CUT)
            if (start := _begins_at(form, text)) is not None:
                text = text[:start] + _CUT
        plain = text
        for _ in range(_ROUNDS):
            before, plain = plain, _decoded(_BROKEN_ESCAPE.sub("", plain))
            if plain == before:
                break
            if any(form in plain or _begins_at(form, plain) is not None for form in self._possible(plain, least)):
                return f"{_CUT} (it quotes the login, so it is left out)"
        return text

    def _possible(self, text: str, least: int) -> list[str]:
        """Return the forms of all logins, the longest first, if the beginning of one is in a text; none if not.

        In this order nothing is left of a secret that contains another one.
        """
        if least not in self._beginnings:
            known = (form for forms in self._forms.values() for form in forms if len(form) >= least)
            self._beginnings[least] = frozenset(form[:least] for form in known)
        beginnings = self._beginnings[least]
        if not any(text[start : start + least] in beginnings for start in range(len(text) - least + 1)):
            return []
        forms = (form for forms in self._forms.values() for form in forms if len(form) >= least)
        return sorted(dict.fromkeys(forms), key=len, reverse=True)


def _begins_at(secret: str, text: str) -> int | None:
    """Return where a secret begins within which a text was cut off; None if it was not."""
    start = text.rfind(secret[:LONG_SECRET], max(0, len(text) - len(secret)))
    return start if start >= 0 and secret.startswith(text[start:]) else None


def _forms(secret: str) -> tuple[str, ...]:
    """Return a secret as it may be quoted: as it is, percent-encoded, in JSON and in HTML."""
    inside = json.dumps(secret)[1:-1]
    raw = json.dumps(secret, ensure_ascii=False)[1:-1]
    return (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), inside, raw, html.escape(secret))


_BROKEN_ESCAPE = re.compile(r"(?:%[0-9a-fA-F]?|\\(?:u[0-9a-fA-F]{0,3}|x[0-9a-fA-F]?)?|&#?[0-9a-zA-Z]{0,8})\Z")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))")


def _decoded(text: str) -> str:
    """Undo one layer of percent-encoding, HTML and JSON."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)) if found[1] or found[2] else found[3], text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return html.unescape(unquote(text))


SENT_LOGINS = SentLogins()


OK = 0
"""Exit code: everything is in place."""
FAILED = 1
"""Exit code: a copy failed."""
USAGE = 2
"""Exit code: the command line, the settings or the rules are invalid; nothing was started."""
TIMED_OUT = 3
"""Exit code of ``wait``: the time is over."""
NO_RULE = 4
"""Exit code of ``wait``: no rule copies the image."""
INTERRUPTED = 130
"""Exit code: Ctrl-C or SIGTERM ended the command before it was done."""
