"""The JSON schema accepts what the parser accepts, and has the same keys."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from replicator.errors import ConfigError
from replicator.rules import parse, schema
from replicator.rules.schema import rules_schema
from tests.rules.building import ACR, DEFAULTS, HARBOR, PLAIN, error_in

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = rules_schema()
VALIDATOR = Draft7Validator(SCHEMA)

TEXTS = st.sampled_from(["1", "v*", "/^re-/", 1.10, 7])
SOME = TEXTS | st.lists(TEXTS, min_size=1, max_size=3, unique_by=str)
TAGS = st.fixed_dictionaries(
    {},
    optional={
        "include": SOME,
        "exclude": SOME,
        "semver": st.sampled_from([">=1.4", "<2"]),
        "labels": st.sampled_from(["prod", ["prod", "a b"]]),
        "exclude_labels": st.sampled_from([7, ["broken"]]),
        "latest": st.integers(1, 99),
    },
)
CONTENT = {
    "platforms": st.sampled_from(["linux/amd64", ["linux/amd64", "linux/arm64"], "*/*"]),
    "attestations": st.sampled_from(["auto", "keep", "strip", "fail"]),
    "signatures": st.booleans(),
    "types": st.sampled_from(["all", "image", ["chart", "application/vnd.example+json"]]),
}
ENDS = st.sampled_from(["", f"{ACR}/ns/x", f"{PLAIN}/copy/{{repository}}", f"{ACR}/ns/{{flat}}"])
REPOSITORIES = st.sampled_from([{"exclude": "base/x"}, {"exclude": ["base/cache*", "base/a/**"]}])
OBJECTS = st.fixed_dictionaries(
    {"to": ENDS | st.lists(ENDS, min_size=1, max_size=2)},
    optional={"tags": TAGS, "repositories": REPOSITORIES, **CONTENT},
)
SOURCES = st.sampled_from([f"{HARBOR}/{name}" for name in ("team/app", "team/app:v*", "base/*", "a/b", "**")])
LOGINS = st.one_of(
    st.builds(lambda insecure: {"anonymous": True, "insecure": insecure}, st.booleans()),
    st.builds(lambda name: {"username": name, "password": 12345, "endpoint": "x.example.com:80"}, TEXTS),
    st.builds(lambda proxy: {"anonymous": True, "proxy": proxy}, st.sampled_from(["http://p:1", "p", "off", False, 7])),
    st.just({"aliyun": {}}),
    st.just({"aliyun": {"create": {"repositories": "public"}}}),
    st.just({"aliyun": {"access_key_id": "a", "access_key_secret": "b", "security_token": "c"}}),
)
WHOLE = st.fixed_dictionaries(
    {
        "auth": st.fixed_dictionaries(dict.fromkeys((HARBOR, ACR, PLAIN), LOGINS)),
        "images": st.dictionaries(
            SOURCES, ENDS | OBJECTS | st.lists(ENDS | OBJECTS, min_size=1, max_size=2), min_size=1, max_size=3
        ),
        "defaults": st.fixed_dictionaries({name: st.just(given) for name, given in DEFAULTS.items()}, optional=CONTENT),
    }
)
# Copied, as tests write into them.
FILES = WHOLE.map(copy.deepcopy)
KEYS = ["to", "tags", "repositories", "exclude", "types", "x"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from(["", "v*", "keep", "linux/amd64", f"{PLAIN}/x/y"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=3,
)


def is_taken(file: Any) -> bool:
    return error_in(json.dumps(file)) is None


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a file."""
    yield path
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@given(FILES)
def test_the_schema_accepts_what_the_parser_accepts(file: dict[str, Any]) -> None:
    assume(is_taken(file))
    VALIDATOR.validate(file)


@given(FILES, st.data())
def test_a_misplaced_value_is_never_refused_by_the_schema_alone(file: dict[str, Any], data: st.DataObject) -> None:
    *above, last = data.draw(st.sampled_from([path for path in places(file) if path]))
    at(file, tuple(above))[last] = data.draw(ANYTHING)
    if is_taken(file):
        VALIDATOR.validate(file)


@given(FILES, st.data())
def test_a_key_that_the_parser_does_not_know_the_schema_does_not_know(
    file: dict[str, Any], data: st.DataObject
) -> None:
    assume(is_taken(file))
    # The keys under auth and images are names; all others are fixed words.
    words = [path for path in places(file) if isinstance(at(file, path), dict) and path not in [("auth",), ("images",)]]
    at(file, data.draw(st.sampled_from(words)))["unknown"] = data.draw(ANYTHING)
    assert not is_taken(file)
    assert not VALIDATOR.is_valid(file)


EVERYTHING: dict[str, Any] = {
    "auth": {
        HARBOR: {"username": "a", "password": "b", "insecure": True, "ca_file": "ca.pem", "endpoint": "x:1"},
        ACR: {
            "aliyun": dict.fromkeys(
                SCHEMA["definitions"]["auth"]["additionalProperties"]["properties"]["aliyun"]["properties"], "x"
            )
            | {"create": {"repositories": "private", "namespaces": True}}
        },
        PLAIN: {"anonymous": True},
    },
    "defaults": {**DEFAULTS, "platforms": ["linux/amd64"], "attestations": "keep", "signatures": False},
    "images": {
        f"{HARBOR}/a/b": {
            "to": [f"{PLAIN}/a/b"],
            "tags": {"include": ["a"], "exclude": "b", "semver": ">1", "latest": 2},
            "platforms": "*/*",
            "attestations": "auto",
            "signatures": True,
        }
    },
}
WRONG: list[Any] = [None, [], {}, True, "x", 0, [[]], [None], {"x": "y"}, [{"to": None}]]


def refused_as_a_value(file: Any, path: tuple[Any, ...]) -> bool:
    """Whether the parser refuses the type of the value at ``path``, and not only its content."""
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps(file), "x", environ={})
    return any(
        marker in problem.message
        for problem in caught.value.problems
        for marker in (
            "must be a mapping",
            "must be a string",
            "must be true or false",
            "must be a positive integer",
            "must be one of",
        )
    )


@pytest.mark.parametrize("path", [path for path in places(EVERYTHING) if path], ids=str)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_value_of_a_type_that_the_parser_refuses_the_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    file = copy.deepcopy(EVERYTHING)
    assert VALIDATOR.is_valid(file)
    at(file, path[:-1])[path[-1]] = value
    if refused_as_a_value(file, path):
        assert not VALIDATOR.is_valid(file)


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)
    for name in ("auth", "images"):
        part = Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": SCHEMA["definitions"]})
        assert part.is_valid(EVERYTHING[name])
        assert not part.is_valid(EVERYTHING)


KEYWORDS = {
    "object": {"properties", "additionalProperties", "required", "minProperties", "dependencies"},
    "array": {"items", "minItems"},
    "integer": {"minimum"},
    "any": {"$ref", "type", "description", "examples", "enum", "const", "not", "allOf", "anyOf"},
}
"""The keywords of draft 7 that the schema uses, by the type that they are about."""
META = {"$schema", "title", "definitions"}


def schemas(given: dict[str, Any], types: frozenset[str] = frozenset()) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Every schema in one, with the types that it or what it is combined in names."""
    own = types | {given["type"]} if "type" in given else types
    yield given, set(own)
    for each in [*given.get("allOf", ()), *given.get("anyOf", ()), *([given["not"]] if "not" in given else ())]:
        yield from schemas(each, own)
    inner = [*given.get("properties", {}).values(), *given.get("definitions", {}).values()]
    for each in [*inner, given.get("additionalProperties"), given.get("items")]:
        if isinstance(each, dict):
            yield from schemas(each)


def test_a_validator_in_strict_mode_accepts_the_schema() -> None:
    """The rules of ajv's strict mode, which SchemaStore uses: a slip must not pass as an unknown or useless keyword."""
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    for each, types in schemas(SCHEMA):
        assert set(each) <= set().union(*KEYWORDS.values()) | (META if each is SCHEMA else set()), each
        assert isinstance(each.get("type", ""), str), "a list of types"
        for kind in ("object", "array", "integer"):
            assert kind in types or not set(each) & KEYWORDS[kind], (kind, each)
        assert {*each.get("required", ()), *each.get("dependencies", ())} <= set(each.get("properties", ())), each
        if "$ref" in each:
            assert list(each) == ["$ref"], "draft 7 ignores the keys beside a reference"
            assert each["$ref"].removeprefix("#/definitions/") in SCHEMA["definitions"]


def test_every_key_is_described_with_examples_that_are_valid() -> None:
    definitions = SCHEMA["definitions"]
    assert SCHEMA["description"]
    for each, _ in schemas(SCHEMA):
        keys = each.get("properties", {}) if each.get("additionalProperties") is False else {}
        for name, key in keys.items():
            described = definitions[name] if "$ref" in key else key
            assert described["description"].endswith("."), name
            assert "examples" in key or "$ref" in key, name
        for example in each.get("examples", ()):
            Draft7Validator({**each, "definitions": definitions}).validate(example)
    (example,) = SCHEMA["examples"]
    assert parse(json.dumps(example), "x", environ={"HARBOR_PASSWORD": "a", "ACR_PASSWORD": "b"})


def test_the_address_of_the_schema_is_its_id_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "$id" not in SCHEMA
    monkeypatch.setattr(schema, "SCHEMA_ID", "https://replicator.example.com/rules.schema.json")
    assert list(rules_schema().items())[1] == ("$id", "https://replicator.example.com/rules.schema.json")


@pytest.mark.parametrize("login", [{"username": "a"}, {"password": "a"}, {"aliyun": {"access_key_id": "a"}}])
def test_half_a_login_is_refused(login: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(EVERYTHING | {"auth": {HARBOR: login}})
