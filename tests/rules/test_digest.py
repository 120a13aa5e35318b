"""The digest of the rules: it tells whether they ask for the same copies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.rules import load

if TYPE_CHECKING:
    from pathlib import Path

RULE = {"to": "acr.example.com/mirror/app", "platforms": ["linux/amd64", "linux/arm64"], "tags": {"latest": 3}}
LOGINS = {"harbor.example.com": {"anonymous": True}, "acr.example.com": {"anonymous": True}}
SOURCE = "harbor.example.com/team/app"


def digest(path: Path, images: Any, auth: Any = None) -> str:
    file = path / "rules.json"
    file.write_text(json.dumps({"auth": LOGINS | (auth or {}), "images": images}))
    return load(file, environ={}).digest


def test_order_spelling_and_logins_are_no_part_of_it(tmp_path: Path) -> None:
    other = {"harbor.example.com/library/*": "acr.example.com/mirror/{name}"}
    one = digest(tmp_path, {SOURCE: RULE, **other})
    turned = RULE | {"platforms": ["linux/arm64", "linux/amd64"]}
    assert digest(tmp_path, {**other, SOURCE.replace("harbor", "HARBOR"): [turned]}) == one
    login = {"acr.example.com": {"username": "a", "password": "b"}}
    assert digest(tmp_path, {SOURCE: RULE, **other}, login) == one


@pytest.mark.parametrize(
    "images",
    [
        {SOURCE + "2": RULE},
        {SOURCE + ":v1": RULE},
        {SOURCE: RULE | {"to": "acr.example.com/mirror/other"}},
        {SOURCE: RULE | {"platforms": ["linux/amd64"]}},
        {SOURCE: RULE | {"tags": {"latest": 4}}},
        {SOURCE: RULE | {"tags": {"latest": 3, "exclude": ["*-dev"]}}},
        {SOURCE: RULE | {"signatures": True}},
        {SOURCE: [RULE, "acr.example.com/mirror/second"]},
        {SOURCE: RULE, "harbor.example.com/team/second": RULE | {"to": "acr.example.com/mirror/second"}},
        {SOURCE + ":v1": "acr.example.com/mirror/app:v2"},
        {f"{SOURCE}@sha256:{'a' * 64}": "acr.example.com/mirror/app:v2"},
    ],
)
def test_every_other_copy_gives_another(tmp_path: Path, images: Any) -> None:
    assert digest(tmp_path, images) != digest(tmp_path, {SOURCE: RULE})
