"""A client of the API of a running ``serve``, for commands that ask it for the states of images."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
from pydantic import ValidationError
from yarl import URL

from replicator import __version__
from replicator.errors import ConfigError, ErrorText, Problem
from replicator.reference import Reference
from replicator.registry.connector import ProxyConnector
from replicator.registry.proxies import Proxies
from replicator.retry import parse_retry_after
from replicator.server.api.models import Image
from replicator.settings import variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from replicator.settings import Settings

ANSWER_SECONDS = 15.0
"""For one question and its answer: more than the API gives the registries."""
MAX_ANSWER = 1024 * 1024
"""Bytes of an answer."""
_TOKEN = "REPLICATOR_API_TOKEN"  # noqa: S105 - its name

Ask: TypeAlias = Callable[[Reference, bool], Awaitable[Image]]
"""Asks for the state of an image; the flag asks for one that is read at the registries now.

It raises `NoAnswerYet`, and `ConfigError` where only a person can change something.
"""


class NoAnswerYet(Exception):
    """A question has no answer now; another attempt may have one.

    Attributes:
        text: why.
        retry_after: seconds to wait at least.
    """

    def __init__(self, text: ErrorText, retry_after: float | None = None) -> None:
        super().__init__(str(text))
        self.text = text
        self.retry_after = retry_after


class NeverAnswered(NoAnswerYet):
    """A question that no attempt will answer until a person changes something at a registry."""


@contextlib.asynccontextmanager
async def open_client(settings: Settings, destination: str | None) -> AsyncIterator[Ask]:
    """Open a client of the API that asks for the states of images, of one destination or (None) all.

    Raises:
        ConfigError: there is no token.
    """
    base, own = URL(str(settings.api_url)), settings.api_token
    known = [own.get_secret_value()] if own is not None else [token for _, token in settings.scoped_tokens]
    token = next(filter(None, known), None)
    if token is None:
        raise ConfigError("settings", [Problem(_TOKEN, "is not set: the API of serve needs a token with read access")])
    proxies = Proxies.from_environ(variables())
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"replicator/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        connector=ProxyConnector(force_close=True),
    ) as session:

        async def ask(source: Reference, fresh: bool) -> Image:
            query = ({"fresh": "true"} if fresh else {}) | ({} if destination is None else {"destination": destination})
            url = base.joinpath("api", "v1", "images", str(source)).with_query(query)
            proxy = proxies.find(url)
            login = proxy.credentials if proxy is not None else {}
            headers = {"Authorization": f"Bearer {token}", **(login if url.scheme == "http" else {})}
            options: dict[str, Any] = {"proxy": proxy.url if proxy is not None else None, "proxy_headers": login}
            with _troubles(base):
                async with (
                    asyncio.timeout(ANSWER_SECONDS),
                    session.get(url, headers=headers, allow_redirects=False, **options) as answer,
                ):
                    body = bytearray()
                    while len(body) <= MAX_ANSWER and (part := await answer.content.read(MAX_ANSWER)):
                        body += part
            return _read(base, answer, bytes(body))

        yield ask


@contextlib.contextmanager
def _troubles(base: URL) -> Iterator[None]:
    """Turn faults of a connection into `NoAnswerYet`: ``serve`` may start again at this moment."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        message = "its TLS certificate is not trusted here: SSL_CERT_FILE can name a private authority"
        raise ConfigError(str(base.origin()), [Problem("", message)]) from None
    except (aiohttp.ClientError, OSError) as error:
        why = f"no answer within {ANSWER_SECONDS:g} s" if isinstance(error, TimeoutError) else type(error).__name__
        raise NoAnswerYet(ErrorText(f"{base.origin()} does not answer", why)) from error


def _read(base: URL, answer: aiohttp.ClientResponse, body: bytes) -> Image:
    """Read an answer.

    Raises:
        ConfigError: the token is refused, or another address is meant.
        NoAnswerYet: anything else is wrong, as long as ``serve`` or a proxy in front of it starts again.
    """
    where, is_problem = str(base.origin()), answer.content_type == "application/problem+json"
    if answer.status == 200:
        with contextlib.suppress(ValidationError):
            return Image.model_validate_json(body)
    told: dict[str, Any] = {}
    if is_problem:
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(body)
    told = told if isinstance(told, dict) else {}
    words = ErrorText(*(str(told.get(name, "")) for name in ("what", "why", "do"))).bounded()
    if 300 <= answer.status < 400:
        message = "answers with a redirect, which is not followed: give the final address"
        raise ConfigError(where, [Problem("", message)])
    if answer.status in (401, 403):
        message = f"{answer.status}: {words.what or 'refused'}: {_TOKEN} must be one of its REPLICATOR_API_TOKENS"
        raise ConfigError(where, [Problem("", message)])
    if is_problem and answer.status in (400, 404):
        raise ConfigError(where, [Problem("", f"{answer.status}: {words}")])
    if not words.what:
        words = ErrorText(f"{where} answers {answer.status}, not as the API of replicator serve does")
    raise NoAnswerYet(words, parse_retry_after(answer.headers.get("Retry-After")))
