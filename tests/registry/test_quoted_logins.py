"""Servers that quote a request back: no text of theirs shows a login, in whatever form it is quoted."""

from __future__ import annotations

import base64
import html
import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web

from replicator.errors import SentLogins
from replicator.reference import Repository
from replicator.registry import Access, Registries, Timing
from replicator.registry.credentials import IDENTITY_TOKEN
from replicator.registry.errors import RegistryError
from tests.registry.conftest import served

if TYPE_CHECKING:
    from collections.abc import Callable

USER, PASSWORD = "robot$team", 'p"ä/ss w%r\\d&<x>+'
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TOKEN = "eyJhbGciOiJSUzI1NiJ9." + "a1B2-_" * 200 + ".sig/+="
IDENTITY = "identity/token+with=all&of<it>"


def bare(text: str) -> str:
    return text


def in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def twice(text: str) -> str:
    return quote(json.dumps(json.dumps(text)), safe="")


def lower_case(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


FORMS: list[Callable[[str], str]] = [bare, quote, quote_plus, in_json, html.escape, twice, lower_case]


def letters(text: str) -> str:
    """Leave what any of the forms leaves as it is."""
    return "".join(c for c in text if c.isalnum() and c.isascii())


def shows(text: str, secret: str) -> bool:
    """Tell whether a text shows a secret, or ten characters of it, in any form."""
    parts = [secret[start : start + 10] for start in range(max(1, len(secret) - 9))]
    # A token's first part names its kind alone.
    parts = [part for part in parts if not TOKEN.startswith(part)]
    return any(form(part) in text for form in FORMS for part in parts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [PASSWORD, PAIR, f"{USER}:{PASSWORD}", TOKEN, IDENTITY])
def test_a_login_is_cut_from_a_text_in_any_form(secret: str, form: Callable[[str], str]) -> None:
    logins = SentLogins()
    for login in (f"Basic {PAIR}", f"Bearer {TOKEN}", IDENTITY):
        logins.sent(login)
    cut = logins.cut(f"refused: [{form(secret)}] was sent")
    assert "***" in cut
    assert not shows(cut, secret)
    # A body is read up to a limit, or breaks off.
    assert not shows(logins.cut(f"refused: {form(secret)[:-3]}"), secret)


def test_nothing_is_left_of_a_secret_that_contains_that_of_another_login() -> None:
    logins = SentLogins()
    for password in ("hunter2-abc", "team-hunter2-abc", "nter2"):
        logins.sent("Basic " + base64.b64encode(f"me:{password}".encode()).decode())
    assert logins.cut("401: team-hunter2-abc is wrong", 4) == "401: *** is wrong"


def test_what_is_no_login_stays_as_it_is_even_if_the_password_is_a_word() -> None:
    logins = SentLogins()
    logins.sent("Basic " + base64.b64encode(b"me:library").decode())
    text = "404: /v2/library/nginx/manifests/1.27, 100 % \\ &amp; %41"
    assert logins.cut(text) == text
    assert logins.cut(text, 4) == text.replace("library", "***")


def test_a_search_takes_bounded_time_whatever_the_text_and_only_the_latest_logins_are_known() -> None:
    logins = SentLogins(most=512)
    tokens = [f"{TOKEN[:300]}{number:06}" for number in range(600)]
    for token in tokens:
        logins.sent(f"Bearer {token}")
    # In use, so it is no candidate for being forgotten.
    logins.sent(f"Bearer {tokens[100]}")
    logins.sent("Bearer " + "z" * 40)
    assert tokens[100] not in logins.cut(tokens[100])
    assert logins.cut("x" + tokens[0]) != "x***"
    began = time.process_time()
    for text in ("eyJhbGci" * 2048, "%25" * 5461, "\\u005c" * 2730, "&amp;" * 3276, TOKEN[:299] * 54):
        logins.cut(text, 4)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("way", ["text", "page", "codes", "digest", "location"])
@pytest.mark.parametrize("login", ["basic", "bearer", "identity"])
async def test_a_registry_that_quotes_requests_back_shows_no_login(way: str, login: str) -> None:
    seen: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        home = f"http://{request.host}"
        given = request.headers.get("Authorization")
        if request.path == "/token":
            if login == "bearer":
                return web.json_response({"token": TOKEN})
            given = f"grant {(await request.read()).decode()}"
        elif given is None:
            how = 'Basic realm="r"' if login == "basic" else f'Bearer realm="{home}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": how})
        seen.append(given)
        value = given.partition(" ")[2]
        known = f"{given} {base64.b64decode(value).decode()}" if login == "basic" else given
        text = f"you sent {known} to this"
        if way == "codes":
            body = json.dumps({"errors": [{"code": "DENIED", "message": text, "detail": {"header": text}}]})
        else:
            body = f"<html><title>{html.escape(text)}</title></html>" if way == "page" else text
        headers = {}
        if way == "digest":
            headers = {"Docker-Content-Digest": f"sha256:{value}", "Content-Type": f"text/{value}"}
        if way == "location":
            return web.Response(status=302, headers={"Location": f"{home}/v2/{quote(value)}/{quote(value)}?{value}"})
        return web.Response(status=200 if way == "digest" else 403, body=body.encode(), headers=headers)

    async with served(handle) as server:
        access = Access(USER, PASSWORD, endpoint=f"http://{server.host}")
        if login == "identity":
            access = Access(IDENTITY_TOKEN, IDENTITY, endpoint=f"http://{server.host}")
        async with Registries(lambda _: access, timing=Timing(read=5, attempts=1)) as registries:
            remote = registries.destination(Repository(server.host, "team/app"))
            for ask in (remote.get_manifest("v1"), remote.start_upload()):
                with pytest.raises(RegistryError) as caught:
                    await ask
                error = caught.value
                for text in (str(error), error.why, error.request, repr(error), *map(str, error.args)):
                    assert not any(shows(text, secret) for secret in (PASSWORD, PAIR, TOKEN, IDENTITY)), text
    assert seen
