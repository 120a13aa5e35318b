"""Where notifications go: addresses as the settings name them, with the format that each wants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from yarl import URL

_MOST = 10


class Format(StrEnum):
    """What a receiver understands."""

    JSON = "json"
    """Our own document, for programs."""
    DINGTALK = "dingtalk"
    FEISHU = "feishu"
    """Of Lark, too, which is the same outside China."""
    WECOM = "wecom"
    SLACK = "slack"
    """Of Mattermost and others, too, that take what Slack's incoming webhooks do."""


_HOSTS = {
    "oapi.dingtalk.com": Format.DINGTALK,
    "open.feishu.cn": Format.FEISHU,
    "open.larksuite.com": Format.FEISHU,
    "qyapi.weixin.qq.com": Format.WECOM,
    "hooks.slack.com": Format.SLACK,
}
"""The services' own hosts, whose format need not be named."""
_QUERIES = {Format.DINGTALK: "access_token", Format.WECOM: "key"}
"""What the query must hold, where the address is known by it."""
_WITHOUT_SECRET = frozenset({Format.WECOM, Format.SLACK})


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver.

    Attributes:
        format: what it understands.
        url: where requests go. It is a secret: who knows it can write there.
        secret: what requests are signed with; for `Format.JSON` the bearer token they carry. None for neither.
    """

    format: Format
    url: URL = field(repr=False)
    secret: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host, with a port that is not its scheme's: all of the address that may be shown."""
        return self.url.host_port_subcomponent or ""

    @property
    def key(self) -> str:
        """A short name that tells it from others, over restarts, and from which the address can't be found."""
        return hashlib.sha256(str(self.url).encode()).hexdigest()[:16]


def parse_receivers(text: str) -> tuple[Receiver, ...]:
    """Read addresses, separated by spaces or lines.

    The format is that of the host, where it is one of the known services, else `Format.JSON`; ``FORMAT+`` in front of
    an address names another. What stands behind ``#`` is the secret.

    Raises:
        ValueError: one can't be used. The message says which by its number; no part of an address is in it.
    """
    words = text.split()
    if not words:
        raise ValueError("it has no address")
    if len(words) > _MOST:
        raise ValueError(f"more than {_MOST} addresses")
    found = []
    for number, word in enumerate(words, 1):
        try:
            found.append(_parse(word))
        except ValueError as error:
            raise ValueError(f"address {number}: {error}" if len(words) > 1 else str(error)) from None
    if len({receiver.key for receiver in found}) < len(found):
        raise ValueError("an address stands there twice")
    return tuple(found)


def _parse(word: str) -> Receiver:
    prefix, plus, rest = word.partition("+")
    named = plus != "" and "://" not in prefix
    try:
        form = Format(prefix.lower()) if named else None
    except ValueError:
        raise ValueError(f"no such format; there are {', '.join(Format)}") from None
    address = rest if named else word
    try:
        url = URL(address)
        host, port, scheme = url.host, url.port, url.scheme
    except ValueError:
        host = port = scheme = None
    if scheme not in ("http", "https") or not (host or "").strip(".") or not port or not address.isprintable():
        raise ValueError("write it as https://host/path, with the format in front if need be, e.g. slack+https://…")
    known = _HOSTS.get(host or "")
    form = form or known or Format.JSON
    if known is not None and scheme != "https":
        raise ValueError(f"{host} is reached by https")
    query = _QUERIES.get(form)
    if query is not None and known is form and not url.query.get(query):
        raise ValueError(f"the address of a {form} robot has ?{query}=…: copy all of it")
    secret = url.fragment or None
    if secret is not None and not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise ValueError("the secret behind # has characters that none has")
    if secret is not None and url.user is not None:
        raise ValueError("a user's name in front of the host, or a secret behind #, but not both")
    if secret is not None and form in _WITHOUT_SECRET:
        raise ValueError(f"{form} knows no secret behind #")
    return Receiver(form, url.with_fragment(None), secret)
