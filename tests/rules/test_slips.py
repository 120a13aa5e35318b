"""Slips in files with logins: whatever they make of a file, no message shows a password."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.commands.convert import File, Options, convert_files
from replicator.errors import ConfigError
from replicator.rules import parse

HARBOR, ACR = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"
SECRET = "q7Zk9w"
LOGIN = {"username": "u", "password": SECRET}
JSON = json.dumps({"auth": {HARBOR: LOGIN, ACR: LOGIN}, "images": {f"{HARBOR}/t/a": f"{ACR}/t/a"}}, indent=1)
YAML = f"""images:
  {HARBOR}/t/a: {ACR}/t/a
auth:
  {ACR}: {{username: me, password: '{SECRET}', proxy: 'http://u:{SECRET}@p:80'}}
  {HARBOR}:
    username: u
    password: {SECRET}
"""
ACCOUNT = f"auth:\n  {ACR}:\n    aliyun: {{access_key_id: i, access_key_secret: {SECRET}}}\n"
LOGINS = json.dumps({HARBOR: LOGIN, ACR: LOGIN})
REGSYNC = f"creds:\n  - registry: {HARBOR}\n    user: u\n    pass: {SECRET}\n    tls: disabled\n"
SKOPEO = f"{HARBOR}:\n  images: {{t/a: [v1]}}\n  credentials:\n    username: u\n    password: {SECRET}\n"
FILES = (JSON, YAML, ACCOUNT, LOGINS, REGSYNC, SKOPEO)
PIECES = st.sampled_from(
    [*"{}[]:,&*!|>'\"#-?%@` \n\t<~$\\=/;\0\ufeff\uff1a\u201c", "//", "/* */", ": ", "- ", "? ", "\n  ", "<<: "]
)
SLIPS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20), PIECES | st.just("")), min_size=1, max_size=3)


def messages(text: str) -> str:
    """Return all that is said about a text, as rules and as a file of another program."""
    said = ""
    try:
        said += str(parse(text, "rules", environ={}, registry=ACR, namespace="n").warnings)
    except ConfigError as error:
        said += str(error)
    try:
        said += str(convert_files([File("file", text)], Options(ACR, "n", harbor=HARBOR)).remarks)
    except ConfigError as error:
        said += str(error)
    return said


@pytest.mark.parametrize(
    "text",
    [
        JSON.replace(f'"password": "{SECRET}"', f'"password:{SECRET}"'),
        JSON.replace(f'"password": "{SECRET}"', f'"passwrd:{SECRET}"'),
        JSON.replace(f'"password": "{SECRET}"', f'"{SECRET}": "password"'),
        JSON.replace(f'"password": "{SECRET}"', f'"password": "x", "{SECRET}": 1, "{SECRET}": 2'),
        JSON.replace(f'"password": "{SECRET}"', f'"password": "x" /* "password": "{SECRET}" */'),
        JSON.replace(f'"password": "{SECRET}"', f'"password": "{SECRET}'),
        JSON.replace(f'"username": "u",\n   "password": "{SECRET}"', f'"password" "{SECRET}"'),
        JSON.replace(f'"{HARBOR}": {{', f'"u:{SECRET}@{HARBOR}": {{'),
        JSON.replace(f'"{HARBOR}/t/a":', f'"u:{SECRET}@{HARBOR}/t/a":'),
        JSON.replace(f'"{HARBOR}/t/a":', f'"https://u:{SECRET}@{HARBOR}/t/a":'),
        JSON.replace(f'"{ACR}/t/a"', f'"{SECRET}"'),
        JSON.replace(f'"{ACR}/t/a"', f'"{ACR}/t/a",\n {SECRET}",'),
        JSON.replace(f'"{ACR}/t/a"', f'"u:{SECRET}@{ACR}/t/a"'),
        YAML.replace("password: ", "password:"),
        YAML.replace("password: ", "password; "),
        YAML.replace("password: ", "password= "),
        YAML.replace("password: ", "- password: "),
        YAML.replace("password: ", "\tpassword: "),
        YAML.replace("password: ", "password: ca_file: "),
        YAML.replace("password: ", "ca_file: "),
        YAML.replace("password: ", "password: @"),
        YAML.replace("password: ", "password: !"),
        YAML.replace("password: ", "password: *"),
        YAML.replace(SECRET, f"{SECRET}: x"),
        YAML.replace(f"'{SECRET}'", f"'{SECRET}''"),
        YAML.replace(f"'{SECRET}'", f'"{SECRET}\\w"'),
        YAML.replace("username: me, password: ", "username: me, password "),
        YAML.replace(f"password: '{SECRET}'", f"{SECRET}, {SECRET}"),
        YAML.replace("    password: ", "  password:"),
        ACCOUNT.replace("access_key_secret: ", "access_key_secret "),
        ACCOUNT.replace("access_key_secret: ", "create: {repositories: private, namespaces: true}, "),
        REGSYNC.replace("pass: ", "pass:"),
        REGSYNC.replace(f"pass: {SECRET}", f"{{{SECRET}}}"),
        REGSYNC.replace("disabled", SECRET),
        SKOPEO.replace("  credentials:\n", "").replace("images: {t/a: [v1]}", "images:"),
        SKOPEO.replace("[v1]", f"[v1, '{SECRET} ']"),
        LOGINS.replace('"password": ', '"passwort": '),
        LOGINS.replace(f'"password": "{SECRET}"', f'"{SECRET}": "", "{SECRET}": ""'),
    ],
)
def test_no_message_about_a_slip_shows_a_password(text: str) -> None:
    assert SECRET in text
    assert SECRET not in messages(text)


@settings(max_examples=40)
@example(LOGINS, [(1, 0, "\t")])
@given(st.sampled_from(FILES), SLIPS)
def test_no_message_about_any_slips_shows_a_password(text: str, slips: list[tuple[int, int, str]]) -> None:
    for position, removed, added in slips:
        start = position % (len(text) + 1)
        text = text[:start] + added + text[start + removed :]
    if f"${SECRET}" not in text:
        # The name of a variable that is not set is told.
        assert SECRET not in messages(text)
