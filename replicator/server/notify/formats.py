"""Messages in the format of each receiver. Pure functions.

These few are our own because libraries for it have the services' hosts built in, follow redirects, read answers of any
size, and take a refusal with status 200 for success.

Image names and registry errors are text from outside: they must not mention anyone or become a link. So each chat
format is either plain text, or carries such text only where markup is not interpreted.

| format | document |
|---|---|
| DingTalk | https://open.dingtalk.com/document/orgapp/custom-robot-access |
| Feishu, Lark | https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot |
| WeCom | https://developer.work.weixin.qq.com/document/path/91770 |
| Slack | https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks |
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
from replicator.errors import ErrorText, bounded_line, error_fields
from replicator.receivers import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yarl import URL

    from replicator.receivers import Receiver
    from replicator.server.notify.message import Message, Origin

_LIMITS = {
    # A text has no limit of its own, but the whole request has one of 20,000 bytes.
    Format.DINGTALK: 6000,
    # The whole request: 20 KiB.
    Format.FEISHU: 6000,
    # "text.content": 2,048 bytes.
    Format.WECOM: 2048,
    # Longer ones are cut or split: 4,000 characters.
    Format.SLACK: 3500,
    Format.JSON: 6000,
}
"""Bytes of a message's text."""
_MAX_LINE = 480
"""Characters of one example or advice in a text."""
_MAX_FIELD = 1000
"""Characters of one subject or reason in the JSON document."""
_MAX_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Post:
    """A request to send. Every part of it may contain a secret."""

    url: URL = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def post_of(receiver: Receiver, message: Message, origin: Origin, now: float) -> Post:
    """Write a message as a request to a receiver, signed if the receiver has a secret.

    Args:
        receiver: the receiver.
        message: the message.
        origin: the sender.
        now: seconds since 1970, for the signature.
    """
    url, headers = receiver.url, {"Content-Type": "application/json; charset=utf-8"}
    limit = _LIMITS[receiver.format]
    if receiver.format is Format.DINGTALK:
        # An empty "at" mentions nobody, even if the text contains a mention.
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
        # The status page's address stays outside of the code block, where it is a link.
        link = [lines.pop()] if origin.status is not None else []
        body = {"text": "\n".join([title, "```", *lines, "```", *link])}
    else:
        body = document(message, origin, "\n".join(lines_of(message, origin, limit)))
        if receiver.secret is not None:
            headers["Authorization"] = f"Bearer {receiver.secret}"
    return Post(url, json.dumps(body, ensure_ascii=False).encode(), headers)


def document(message: Message, origin: Origin, text: str) -> dict[str, Any]:
    """Write a message as the document of `Format.JSON`, see docs/notifications.md."""
    return {
        "id": message.id,
        "occasion": str(message.occasion),
        "state": str(message.state),
        "title": message.title,
        "at": _rfc3339(message.at),
        "since": None if message.since is None else _rfc3339(message.since),
        "count": message.count,
        "examples": [
            {
                "subject": bounded_line(each.subject, _MAX_FIELD),
                "reason": bounded_line(str(ErrorText.parse(each.reason)), _MAX_FIELD),
                **error_fields(each.reason),
                "count": each.count,
            }
            for each in message.examples[:_MAX_EXAMPLES]
        ],
        "advice": list(message.advice),
        "installation": origin.name,
        "status_page": origin.status,
        "text": text,
    }


def dingtalk_sign(timestamp: str, secret: str) -> str:
    r"""Sign as DingTalk does: Base64 of the HMAC-SHA256 of ``timestamp\nsecret``, with the secret as the key.

    Args:
        timestamp: milliseconds since 1970.
        secret: the robot's, which begins with ``SEC``.
    """
    return _base64_hmac(secret, f"{timestamp}\n{secret}")


def feishu_sign(timestamp: str, secret: str) -> str:
    r"""Sign as Feishu does: Base64 of the HMAC-SHA256 of nothing, with ``timestamp\nsecret`` as the key.

    Args:
        timestamp: seconds since 1970.
        secret: the bot's.
    """
    return _base64_hmac(f"{timestamp}\n{secret}", "")


def _base64_hmac(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()


def _feishu(message: Message, origin: Origin, limit: int) -> dict[str, Any]:
    """Write a rich text that consists of plain text elements, in which no tags are interpreted."""
    title, *lines = lines_of(message, origin, limit, _no_mention)
    return {"title": title, "content": [[{"tag": "text", "text": line}] for line in lines]}


def _no_mention(text: str) -> str:
    """Break what these services' other message types would interpret as a mention."""
    return text.replace("<at", "< at").replace("<@", "< @")


def _slack_escaped(text: str) -> str:
    """Escape what Slack interprets everywhere, and what would end a code block, in which it interprets nothing else."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")


def _rfc3339(milliseconds: int) -> str:
    return iso(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lines_of(message: Message, origin: Origin, limit: int, escape: Callable[[str], str] = str) -> list[str]:
    """Write a message as escaped lines: title, where and since when, examples, advice, link.

    Args:
        message: the message.
        origin: the sender.
        limit: bytes of UTF-8 for all lines with their line ends, at least 1,500. Examples that do not fit are left
            out and counted.
        escape: makes text from outside harmless in the format.
    """
    head = [message.title, _facts(message, origin)]
    tail = [bounded_line(each, _MAX_LINE) for each in message.advice]
    if origin.status is not None:
        tail.append(f"Status: {origin.status}")
    tail = [escape(each) for each in tail]
    lines = [escape(each) for each in head]
    room = limit - _size([*lines, *tail]) - len("and 1000000 more") - 1
    shown = 0
    for example in message.examples:
        what, *rest = ErrorText.parse(example.reason).lines or [""]
        parts = [f"- {bounded_line(f'{example.subject}: {what}', _MAX_LINE)}"]
        parts += [f"  {bounded_line(each, _MAX_LINE)}" for each in rest]
        parts = [escape(each) for each in parts]
        if _size(parts) > room:
            break
        room -= _size(parts)
        lines += parts
        shown += example.count
    more = (message.count or 0) - shown
    if message.examples and more > 0:
        lines.append(f"and {more} more" if shown else f"{more} in total")
    return [*lines, *tail]


def _facts(message: Message, origin: Origin) -> str:
    parts = [f"at {bounded_line(origin.name, 100)}", _utc(message.at)]
    if message.since is not None:
        since = _utc(message.since)
        parts.append(f"since {since} ({age((message.at - message.since) / 1000)})")
    return ", ".join(parts)


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)
