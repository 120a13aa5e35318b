"""Messages in the form that each receiver understands. Pure functions.

They are our own: libraries for this have the services' hosts built in, follow redirects, read answers of any size, and
take a refusal that comes as 200 for success.

None of the chat formats here knows markup, or foreign words stand where none is read: what an image is named, or a
registry says, can mention nobody and form no link.

| format | document |
|---|---|
| DingTalk | https://open.dingtalk.com/document/orgapp/custom-robot-access |
| Feishu, Lark | https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot |
| WeCom | https://developer.work.weixin.qq.com/document/path/91770 |
| Slack | https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks |

A message as lines of plain text, within a bound and with no foreign word that could do anything.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.console import age, iso
from replicator.receivers import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yarl import URL

    from replicator.receivers import Receiver
    from replicator.server.notify.message import Message, Origin

_EXAMPLE = 480
"""Characters of one example."""


def tame(text: str, most: int) -> str:
    """Make foreign words one line of at most ``most`` characters, without anything that does not print."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def moment_words(milliseconds: int) -> str:
    """Write a time for a person, in UTC to the second."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lines_of(message: Message, origin: Origin, limit: int, escape: Callable[[str], str] = str) -> list[str]:
    """Write a message as lines: what happened, since when, examples, what to do, where to look.

    Args:
        message: what to tell.
        origin: who tells it.
        limit: bytes of UTF-8 that the escaped lines may have, a line end each included; at least 1,500. What is too
            much is left out from the last example on, and counted.
        escape: what the format does to foreign words.

    Returns:
        The escaped lines, the title first.
    """
    head = [message.title, _facts(message, origin)]
    tail = [tame(each, _EXAMPLE) for each in message.advice]
    if origin.status is not None:
        tail.append(f"Status: {origin.status}")
    tail = [escape(each) for each in tail]
    shown = [escape(each) for each in head]
    room = limit - _size([*shown, *tail]) - len("and 1000000 more") - 1
    written = 0
    for example in message.examples:
        line = escape("- " + tame(f"{example.subject}: {example.reason}", _EXAMPLE))
        if _size([line]) > room:
            break
        room -= _size([line])
        shown.append(line)
        written += 1
    more = (message.count or 0) - written
    if message.examples and more > 0:
        shown.append(f"and {more} more" if written else f"{more} in all")
    return [*shown, *tail]


def _facts(message: Message, origin: Origin) -> str:
    parts = [f"at {tame(origin.name, 100)}", moment_words(message.at)]
    if message.since is not None:
        since = moment_words(message.since)
        parts.append(f"since {since} ({age((message.at - message.since) / 1000)})")
    return ", ".join(parts)


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


_LIMITS = {
    # A text has no bound of its own there, but the whole request one of 20,000 bytes.
    Format.DINGTALK: 6000,
    # The whole request: 20 KiB.
    Format.FEISHU: 6000,
    # "text.content": 2,048 bytes.
    Format.WECOM: 2048,
    # Longer ones are cut, or split: 4,000 characters.
    Format.SLACK: 3500,
    Format.JSON: 6000,
}
"""Bytes of the text."""
_FOREIGN = 1000
_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Post:
    """A request to be sent: where, and with what. All of it may hold secrets."""

    url: URL = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def post_of(receiver: Receiver, message: Message, origin: Origin, now: float) -> Post:
    """Give a message the form that its receiver understands.

    Args:
        receiver: who gets it.
        message: what it says.
        origin: who says it.
        now: seconds since 1970, for signatures.
    """
    url, headers = receiver.url, {"Content-Type": "application/json; charset=utf-8"}
    limit = _LIMITS[receiver.format]
    if receiver.format is Format.DINGTALK:
        # The keys of "at" are those who are mentioned: nobody.
        content = {"content": "\n".join(lines_of(message, origin, limit))}
        body: dict[str, Any] = {"msgtype": "text", "text": content, "at": {"isAtAll": False}}
        if receiver.secret is not None:
            timestamp = str(round(now * 1000))
            url = url.update_query(timestamp=timestamp, sign=dingtalk_sign(timestamp, receiver.secret))
    elif receiver.format is Format.FEISHU:
        body = {"msg_type": "post", "content": {"post": {"zh_cn": _feishu(message, origin, limit)}}}
        if receiver.secret is not None:
            timestamp = str(round(now))
            body |= {"timestamp": timestamp, "sign": feishu_sign(timestamp, receiver.secret)}
    elif receiver.format is Format.WECOM:
        body = {"msgtype": "text", "text": {"content": "\n".join(lines_of(message, origin, limit, _no_mention))}}
    elif receiver.format is Format.SLACK:
        title, *lines = lines_of(message, origin, limit, _slack_escaped)
        # An address in a block of code could not be clicked on.
        below = [lines.pop()] if origin.status is not None else []
        body = {"text": "\n".join([title, "```", *lines, "```", *below])}
    else:
        body = document(message, origin, "\n".join(lines_of(message, origin, limit)))
        if receiver.secret is not None:
            headers["Authorization"] = f"Bearer {receiver.secret}"
    return Post(url, json.dumps(body, ensure_ascii=False).encode(), headers)


def document(message: Message, origin: Origin, text: str) -> dict[str, Any]:
    """Give a message as the document of `Format.JSON`; docs/notifications.md says what its keys are."""
    return {
        "id": message.id,
        "occasion": str(message.occasion),
        "state": str(message.state),
        "title": message.title,
        "at": _rfc3339(message.at),
        "since": None if message.since is None else _rfc3339(message.since),
        "count": message.count,
        "examples": [
            {"subject": tame(each.subject, _FOREIGN), "reason": tame(each.reason, _FOREIGN)}
            for each in message.examples[:_EXAMPLES]
        ],
        "advice": list(message.advice),
        "installation": origin.name,
        "status_page": origin.status,
        "text": text,
    }


def dingtalk_sign(timestamp: str, secret: str) -> str:
    """Sign as DingTalk wants it: HMAC-SHA256 of timestamp, line end and secret, under the secret; in Base64.

    Args:
        timestamp: milliseconds since 1970.
        secret: the robot's, which begins with ``SEC``.
    """
    return _base64_hmac(secret, f"{timestamp}\n{secret}")


def feishu_sign(timestamp: str, secret: str) -> str:
    """Sign as Feishu wants it: HMAC-SHA256 of nothing, under timestamp, line end and secret; in Base64.

    Args:
        timestamp: seconds since 1970.
        secret: the bot's.
    """
    return _base64_hmac(f"{timestamp}\n{secret}", "")


def _base64_hmac(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()


def _feishu(message: Message, origin: Origin, limit: int) -> dict[str, Any]:
    """A rich text whose parts are all plain text, in which tags are not read."""
    title, *lines = lines_of(message, origin, limit, _no_mention)
    return {"title": title, "content": [[{"tag": "text", "text": line}] for line in lines]}


def _no_mention(text: str) -> str:
    """Break what other types of messages of these services read as a mention."""
    return text.replace("<at", "< at").replace("<@", "< @")


def _slack_escaped(text: str) -> str:
    """Escape what Slack reads in any text, and what would end a block of code; in that nothing else is read."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")


def _rfc3339(milliseconds: int) -> str:
    return iso(datetime.fromtimestamp(milliseconds / 1000, UTC))
