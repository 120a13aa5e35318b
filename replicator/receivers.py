"""Receivers of notifications: their addresses in the settings, and the format of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from yarl import URL

_MAX_RECEIVERS = 10


class Format(StrEnum):
    """The format of the messages that a receiver accepts."""

    JSON = "json"
    """Our own document, for programs."""
    DINGTALK = "dingtalk"
    FEISHU = "feishu"
    """Also Lark, its name outside of China."""
    WECOM = "wecom"
    SLACK = "slack"
    """Also Mattermost and others that are compatible with Slack's incoming webhooks."""


_HOSTS = {
    "oapi.dingtalk.com": Format.DINGTALK,
    "open.feishu.cn": Format.FEISHU,
    "open.larksuite.com": Format.FEISHU,
    "qyapi.weixin.qq.com": Format.WECOM,
    "hooks.slack.com": Format.SLACK,
}
"""The services' own hosts, for which the format need not be given."""
_QUERIES = {Format.DINGTALK: "access_token", Format.WECOM: "key"}
"""The query parameter that every address of a robot has; catches an address that was copied in part."""
_WITHOUT_SECRET = frozenset({Format.WECOM, Format.SLACK})
"""Formats without signatures: the address itself is all there is."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver.

    Attributes:
        format: the format of its messages.
        url: where messages are posted. A secret: anyone who knows it can post there.
        secret: the key of the signature, or for `Format.JSON` the bearer token; None if there is none.
    """

    format: Format
    url: URL = field(repr=False)
    secret: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host, with its port if that is not the default: the only part of the address that may be shown."""
        return self.url.host_port_subcomponent or ""

    @property
    def key(self) -> str:
        """A short identifier that is stable over restarts and does not reveal the address."""
        return hashlib.sha256(str(self.url).encode()).hexdigest()[:16]


def parse_receivers(text: str) -> tuple[Receiver, ...]:
    """Parse addresses, separated by spaces or newlines.

    The format follows from the host if it is one of the known services, and is else `Format.JSON`; a prefix
    ``FORMAT+`` overrides it. The fragment after ``#`` is the secret.

    Raises:
        ValueError: one is invalid. The message gives its number, and no part of an address.
    """
    words = text.split()
    if not words:
        raise ValueError("there is no address")
    if len(words) > _MAX_RECEIVERS:
        raise ValueError(f"more than {_MAX_RECEIVERS} addresses")
    found = []
    for number, word in enumerate(words, 1):
        try:
            found.append(_parse(word))
        except ValueError as error:
            raise ValueError(f"address {number}: {error}" if len(words) > 1 else str(error)) from None
    if len({receiver.key for receiver in found}) < len(found):
        raise ValueError("an address is given twice")
    return tuple(found)


def _parse(word: str) -> Receiver:
    prefix, plus, rest = word.partition("+")
    has_prefix = plus != "" and "://" not in prefix
    try:
        form = Format(prefix.lower()) if has_prefix else None
    except ValueError:
        raise ValueError(f"unknown format; use one of {', '.join(Format)}") from None
    address = rest if has_prefix else word
    try:
        url = URL(address)
        host, port, scheme = url.host, url.port, url.scheme
    except ValueError:
        host = port = scheme = None
    if scheme not in ("http", "https") or not (host or "").strip(".") or not port or not address.isprintable():
        raise ValueError("write https://host/path, with the format in front if necessary, e.g. slack+https://…")
    known = _HOSTS.get(host or "")
    form = form or known or Format.JSON
    if known is not None and scheme != "https":
        raise ValueError(f"use https for {host}")
    query = _QUERIES.get(form)
    if query is not None and known is form and not url.query.get(query):
        raise ValueError(f"the address of a {form} robot contains ?{query}=…: copy the whole address")
    secret = url.fragment or None
    if secret is not None and not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise ValueError("the secret after # contains characters that no secret has")
    if secret is not None and url.user is not None:
        raise ValueError("use either a user name before the host or a secret after #, not both")
    if secret is not None and form in _WITHOUT_SECRET:
        raise ValueError(f"{form} does not support a secret after #")
    return Receiver(form, url.with_fragment(None), secret)
