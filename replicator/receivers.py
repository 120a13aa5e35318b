"""Receivers of notifications and of CloudEvents: their addresses, as the settings name them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RECEIVERS = 10
"""Addresses in a setting."""
_SECRET_MARK = "whsec_"  # noqa: S105 - what every secret begins with
_SECRET_BYTES = range(24, 65)
"""Length of a secret (Standard Webhooks, https://www.standardwebhooks.com)."""


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


class _Addressed:
    """What has an address.

    Attributes:
        url: where messages are posted. A secret: anyone who knows it can post there.
    """

    __slots__ = ()
    url: URL

    @property
    def host(self) -> str:
        """The host, with its port if that is not the default: the only part of the address that may be shown."""
        return self.url.host_port_subcomponent or ""

    @property
    def key(self) -> str:
        """A short identifier that is stable over restarts and does not reveal the address."""
        return hashlib.sha256(str(self.url).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Receiver(_Addressed):
    """A receiver of notifications.

    Attributes:
        format: the format of its messages.
        secret: the key of the signature, or for `Format.JSON` the bearer token; None if there is none.
    """

    format: Format
    url: URL = field(repr=False)
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EventReceiver(_Addressed):
    """A receiver of CloudEvents.

    Attributes:
        secret: the key of the signatures.
        up_to_date: whether it is told of copies that had nothing to do.
    """

    url: URL = field(repr=False)
    secret: bytes = field(repr=False)
    up_to_date: bool = False


AnyReceiver = TypeVar("AnyReceiver", Receiver, EventReceiver)


def parse_receivers(text: str) -> tuple[Receiver, ...]:
    """Parse addresses of receivers of notifications, separated by spaces or newlines.

    The format follows from the host if it is one of the known services, and is else `Format.JSON`; a prefix
    ``FORMAT+`` overrides it. The fragment after ``#`` is the secret.

    Raises:
        ValueError: one is invalid. The message gives its number, and no part of an address.
    """
    return _parse_all(text, _parse_receiver)


def parse_event_receivers(text: str) -> tuple[EventReceiver, ...]:
    """Parse addresses of receivers of CloudEvents, ``URL#whsec_…``, separated by spaces or newlines.

    With ``up_to_date+`` in front, a receiver is told of copies that had nothing to do, too.

    Raises:
        ValueError: one is invalid. The message gives its number, and no part of an address.
    """
    return _parse_all(text, _parse_event_receiver)


def _parse_all(text: str, parse: Callable[[str], AnyReceiver]) -> tuple[AnyReceiver, ...]:
    words = text.split()
    if not words:
        raise ValueError("there is no address")
    if len(words) > MAX_RECEIVERS:
        raise ValueError(f"more than {MAX_RECEIVERS} addresses")
    found: list[AnyReceiver] = []
    for number, word in enumerate(words, 1):
        try:
            found.append(parse(word))
        except ValueError as error:
            raise ValueError(f"address {number}: {error}" if len(words) > 1 else str(error)) from None
    if len({receiver.key for receiver in found}) < len(found):
        raise ValueError("an address is given twice")
    return tuple(found)


def _split(word: str) -> tuple[str | None, str]:
    """Split an address from the prefix in front of it; None without one."""
    prefix, plus, rest = word.partition("+")
    return (prefix.lower(), rest) if plus and "://" not in prefix else (None, word)


def _parse_url(address: str, example: str) -> URL:
    try:
        url = URL(address)
        host, port, scheme = url.host, url.port, url.scheme
    except ValueError:
        raise ValueError(example) from None
    if scheme not in ("http", "https") or not (host or "").strip(".") or not port or not address.isprintable():
        raise ValueError(example)
    return url


def _parse_receiver(word: str) -> Receiver:
    prefix, address = _split(word)
    try:
        form = Format(prefix) if prefix is not None else None
    except ValueError:
        raise ValueError(f"unknown format; use one of {', '.join(Format)}") from None
    url = _parse_url(address, "write https://host/path, with the format in front if necessary, e.g. slack+https://…")
    known = _HOSTS.get(url.host or "")
    form = form or known or Format.JSON
    if known is not None and url.scheme != "https":
        raise ValueError(f"use https for {url.host}")
    query = _QUERIES.get(form)
    if query is not None and known is form and not url.query.get(query):
        raise ValueError(f"the address of a {form} robot contains ?{query}=…: copy the whole address")
    secret = url.fragment or None
    if secret is not None and not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise ValueError("the secret after # contains characters that are not allowed in a secret")
    if secret is not None and url.user is not None:
        raise ValueError("use either a user name before the host or a secret after #, not both")
    if secret is not None and form in _WITHOUT_SECRET:
        raise ValueError(f"{form} does not support a secret after #")
    return Receiver(form, url.with_fragment(None), secret)


def _parse_event_receiver(word: str) -> EventReceiver:
    prefix, address = _split(word)
    if prefix not in (None, "up_to_date"):
        raise ValueError("unknown prefix; the only one is up_to_date+")
    url = _parse_url(address, f"write https://host/path#{_SECRET_MARK}…")
    secret = url.fragment
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_MARK), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(_SECRET_MARK) or len(key) not in _SECRET_BYTES:
        least, most = _SECRET_BYTES[0], _SECRET_BYTES[-1]
        raise ValueError(
            f"write the secret after #: {_SECRET_MARK} and {least} to {most} random bytes in Base64, as of "
            "openssl rand -base64 32"
        )
    return EventReceiver(url.with_fragment(None), key, prefix is not None)
