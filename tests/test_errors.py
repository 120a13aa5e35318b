"""The trees of errors in docstrings are those of the modules, and an error reads the same everywhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicator.errors import (
    MAX_PART,
    ConfigError,
    ErrorClass,
    ErrorText,
    Problem,
    ReplicatorError,
    error_fields,
)
from replicator.registry.errors import Denied, NotFound, RegistryError, Unauthorized, request_context

ROOT = Path(__file__).parent.parent
MODULES = ("replicator.errors", "replicator.registry.errors", "replicator.aliyun.operations")
BY_CAUSE = "by cause"
"""Kind of an error whose class is that of its cause."""


@dataclass(frozen=True)
class Entry:
    """A row of a tree; ``base`` is the name of the row above it in the tree."""

    name: str
    base: str | None
    kind: str | None

    def resolve(self, module: str) -> type[Exception]:
        home, _, name = self.name.rpartition(".")
        found: type[Exception] = getattr(importlib.import_module(home or module), name)
        assert issubclass(found, Exception)
        return found


def tree(module: str) -> list[Entry]:
    """The tree in a module's docstring."""
    kinds = "|".join([*(str(kind) for kind in ErrorClass), BY_CAUSE])
    entries: list[Entry] = []
    above: list[str] = []
    for line in (importlib.import_module(module).__doc__ or "").splitlines():
        row = re.fullmatch(rf"( {{4}}[│├└─ ]*)([A-Za-z][\w.]+)(?: +\S.*? +({kinds}))?", line)
        if row is None:
            continue
        depth = len(row[1]) // 4 - 1
        above = [*above[:depth], row[2]]
        entries.append(Entry(row[2], above[depth - 1] if depth else None, row[3]))
    return entries


def short(name: str) -> str:
    return name.rpartition(".")[2]


@pytest.mark.parametrize("module", MODULES)
def test_the_tree_lists_every_error_of_its_module(module: str) -> None:
    defined = {
        name
        for name, found in inspect.getmembers(importlib.import_module(module), inspect.isclass)
        if found.__module__ == module and issubclass(found, Exception)
    }
    assert defined
    assert {entry.name for entry in tree(module) if "." not in entry.name} == defined


@pytest.mark.parametrize("module", MODULES)
def test_the_tree_tells_base_and_class_of_every_error(module: str) -> None:
    for entry in tree(module):
        found = entry.resolve(module)
        if entry.base is not None:
            assert [base.__name__ for base in found.__bases__] == [short(entry.base)], entry
            assert entry.kind is not None, entry
        if entry.kind is not None and entry.kind != BY_CAUSE:
            assert issubclass(found, ReplicatorError)
            assert found.error_class == entry.kind, entry


def test_the_tree_of_the_base_lists_its_subclasses_in_all_rooms() -> None:
    found = set()
    for file in (ROOT / "replicator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and "ReplicatorError" in [ast.unparse(base) for base in node.bases]:
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                found.add(node.name if module == "replicator.errors" else f"{module}.{node.name}")
    assert {entry.name for entry in tree("replicator.errors") if entry.base == "ReplicatorError"} == found


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (("what",), "what"),
        (("what", "why"), "what: why"),
        (("what", "", "do"), "what; do"),
        (("what", "why", "do"), "what: why; do"),
        (("", "why"), "why"),
    ],
)
def test_an_error_reads_what_why_and_do(fields: tuple[str, ...], text: str) -> None:
    assert str(ReplicatorError(*fields)) == text


def test_advice_can_be_added_on_the_way_up() -> None:
    error = Denied("403: denied").at("h.example.com", "HEAD /v2/")
    error.do = "check the login"
    assert str(error) == "h.example.com: HEAD /v2/: 403: denied; check the login"


def test_the_innermost_request_is_named() -> None:
    with (
        pytest.raises(Denied) as caught,
        request_context("outer.example.com", "GET /outer"),
        request_context("h.example.com", "GET /v2/"),
    ):
        raise Denied("403")
    assert (caught.value.registry, caught.value.request) == ("h.example.com", "GET /v2/")
    assert str(caught.value) == "h.example.com: GET /v2/: 403"


def test_a_request_that_is_known_is_kept_and_its_registry_filled_in() -> None:
    with pytest.raises(RegistryError) as caught, request_context("h.example.com", "GET /v2/"):
        raise Denied("403").at(request="GET /token")
    assert caught.value.what == "h.example.com: GET /token"


def test_other_exceptions_pass_a_request_context_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^a bug$"), request_context("h.example.com", "GET /v2/"):
        raise ValueError("a bug")


def test_an_error_is_recast_with_all_its_facts() -> None:
    first = NotFound("404", "look", status=404, codes=("NAME_UNKNOWN",), retry_after=3.0).at("h", "GET /v2/")
    second = first.recast(Unauthorized, ", once more")
    assert type(second) is Unauthorized
    assert (second.status, second.codes, second.retry_after) == (404, ("NAME_UNKNOWN",), 3.0)
    assert str(second) == "h: GET /v2/: 404, once more; look"
    again = first.again()
    assert type(again) is NotFound
    assert again is not first
    assert str(again) == str(first)


def test_a_stored_error_keeps_its_three_parts_on_a_line_each() -> None:
    for text in (ErrorText("a", "b", "c"), ErrorText("a", "", "c"), ErrorText("a", "b"), ErrorText("a"), ErrorText()):
        assert ErrorText.parse(text.stored) == text
    assert str(ErrorText("PUT /v2/", "403", "ask")) == "PUT /v2/: 403; ask"
    assert ErrorText("a", "", "c").lines == ["a", "c"]


def test_a_text_of_an_older_version_is_all_what() -> None:
    assert ErrorText.parse("acr: PUT: 403; check it").to_json() == {
        "what": "acr: PUT: 403; check it",
        "why": "",
        "do": "",
    }
    assert error_fields(None) == {"what": None, "why": None, "do": None}


def test_parts_are_of_one_printable_line_and_bounded() -> None:
    text = ErrorText.of(ReplicatorError("a\x1b[31m\nb", "x" * 5000, "\udcff\u202edo"))
    assert (text.what, len(text.why), text.do) == ("a [31m b", MAX_PART, "do")
    assert ErrorText.parse(text.stored) == text
    assert ErrorText.of(TimeoutError()).what == "TimeoutError"
    assert ErrorText.of(FileNotFoundError(2, "No such file", "a")).what == "No such file: 'a'"


def test_digests_and_names_of_uploads_are_shortened_for_people_only() -> None:
    digest = "sha256:" + "ab" * 32
    text = ErrorText(f"h: PUT /v2/a/blobs/uploads/aff6734e-9335-4e2b-963d-a1d15e1ad4b3?x={digest}", f"no {digest}")
    assert text.lines == ["h: PUT /v2/a/blobs/uploads/…?x=sha256:abababababab…", "no sha256:abababababab…"]
    assert digest in text.to_json()["why"]


def test_the_problems_of_a_configuration_are_its_cause() -> None:
    error = ConfigError("rules.yaml", [Problem("images", "no such thing"), Problem("", "empty")])
    assert ErrorText.of(error) == ErrorText("rules.yaml: 2 problem(s)", "images: no such thing; empty")
    assert str(error) == "rules.yaml: 2 problem(s)\n  images: no such thing\n  empty"
