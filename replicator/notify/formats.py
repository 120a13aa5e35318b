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
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.notify.wording import lines_of, tame
from replicator.printing import iso
from replicator.receivers import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from replicator.notify.message import Message, Origin
    from replicator.receivers import Receiver

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
