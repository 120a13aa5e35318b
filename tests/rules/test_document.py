"""Reading of JSON and YAML, hostile texts included."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from replicator.rules import yaml_text
from replicator.rules.document import MAX_BYTES, read_document
from replicator.rules.node import MAX_DEPTH, MAX_VALUES, Plain


def message(text: str) -> str:
    unreadable = read_document(text)
    assert not unreadable.readable
    (problem,) = unreadable.problems
    return str(problem)


def test_scalars_stay_as_they_are_written() -> None:
    text = "[1.10, 0123, on, yes, 1e3, 0x10, 2026-01-01, 1:30, .inf, true, null, ~, '5', \"true\"]"
    values = read_document(text).value
    assert values[:9] == ["1.10", "0123", "on", "yes", "1e3", "0x10", "2026-01-01", "1:30", ".inf"]
    assert values[9:] == [True, None, None, "5", "true"]
    assert isinstance(values[0], Plain)
    assert not isinstance(values[12], Plain)


def test_numbers_of_json_keep_their_digits() -> None:
    assert read_document('{"a": 1.10, "b": 007e1}').value["a"] == "1.10"
    assert read_document('{"a": 1.10}').value == {"a": "1.10"}


def test_json_that_is_no_yaml_is_read() -> None:
    assert read_document('{\n\t"a":1,\n\t"b":"\\ud83d\\ude00\\/"\n}').value == {"a": "1", "b": "😀/"}


def test_a_byte_order_mark_is_no_content() -> None:
    assert read_document('\ufeff{"a": "b"}').value == {"a": "b"}


def test_anchors_and_merge_keys_work() -> None:
    text = "base: &base {a: x, b: y}\nother: {<<: *base, b: z}\nboth: {<<: [{a: 1}, *base], c: w}\n"
    value = read_document(text).value
    assert value["other"] == {"a": "x", "b": "z"}
    assert value["both"] == {"a": "1", "b": "y", "c": "w"}
    assert not read_document(text).problems


@pytest.mark.parametrize("text", ["a:\n  b: 1\n  b: 2\n", '{"a": {\n  "b": 1, "b": 2}}'])
def test_a_duplicate_key_is_reported_with_its_path_and_line(text: str) -> None:
    document = read_document(text)
    (problem,) = document.problems
    assert problem.path == "a.b"
    assert "(line 2, column 11)" in problem.message or "(line 3, column 3)" in problem.message
    assert document.readable


def test_a_duplicate_key_is_reported_even_in_json_that_is_no_yaml() -> None:
    assert "duplicate key b in one object" in message('{"\x7f": 0, "b": 1, "b": 2}')


def test_a_duplicate_key_under_an_anchor_is_reported_once() -> None:
    assert len(read_document("a: &a {b: 1, b: 2}\nc: *a\nd: *a\n").problems) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("a: [1, 2\nb: 3", "(line 2, column 2)"),
        ("a: b: c", "(line 1, column 5)"),
        ("a:\n\t- b", "(line 2, column 1)"),
        ('{"a": 1 "b": 2}', "not valid JSON: Expecting ',' delimiter (line 1, column 9)"),
        ("{a: 1", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "YAML tags (!) are not supported"),
        ("a: !secret", "YAML tags (!) are not supported"),
        ("? [a]\n: b", "a key must be a string"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x00", "the file contains a control character (line 1, column 4)"),
        ("# 第一行注释\n# 第二行\na: b\nc: d\x01e", "the file contains a control character (line 4, column 5)"),
        (
            "password: @secret",
            "a character that cannot start any token (line 1, column 11); quote a string that begins with @, ` or %",
        ),
        ("a: {b: *}", "begins at line 1, column 8; quote a string that begins with * or &"),
        ("a:\n  *.example.com: b", "quote a string that begins with * or &"),
        ("a: {b: !pw}", "quote a string that begins with !"),
        ("a: {b: c #d}\n", "quote a string with a comma, a #, or a colon and a space"),
        ("a:\n  b: c\n<<<<<<< HEAD\nd: e\n", "remove what a merge left behind"),
        ("a\uff1a\n  b: c\n", "write : and a space in place of the full-width colon"),
        ("a:\n\u3000b: c\n", "ends with a no-break space, or another special one (line 2, column 1); write an"),
        ("a:\n\xa0 b: c\n", "write an ordinary space"),
        ('{"a": {}}\n{"b": {}}', "not valid JSON: Extra data (line 2, column 1); a rules file has one document"),
        ('{"a": {}\n"b": {}}', "put a comma between two entries"),
        ("注释: `secret", "cannot start any token (line 1, column 5); quote a string that begins with @, ` or %"),
        ("a:\n\t- b", "found a tab that cannot start any token (line 2, column 1); indent with spaces"),
        ("a:\r\n\tb: c", "found a tab that cannot start any token (line 2, column 1); indent with spaces"),
        ("a:\n  b: c\n\t# d\n", "found a tab character that violates indentation (line 3, column 1)"),
        ('{\n // x\n "a": {}\n}', "double quotes (line 2, column 2); JSON has no comments: remove this one"),
        ('{\n "a": "b", // x\n "c": {}\n}', "(line 2, column 12); JSON has no comments"),
        ('{"a": 1 // x\n}', "Expecting ',' delimiter (line 1, column 9); JSON has no comments"),
        ('{ /* x */ "a": {}}', "(line 1, column 3); JSON has no comments"),
        ('{"a": "b}', "Unterminated string starting at (line 1, column 7); close its quotation mark"),
        ('{"a": {', "not valid JSON: Expecting property name enclosed in double quotes (line 1, column 8)"),
        (
            "a:\n  b: 'c\nd: 'e'\n",
            "expected key (line 3, column 5) while parsing a block mapping that begins at line 2, column 3; indent",
        ),
        (
            "a:\n  b: 'c\nd: e\n",
            "end of stream (line 4, column 1) while scanning a quoted scalar that begins at line 2, column 6; close",
        ),
        ("a:\n  b: c\n d: e\n", "did not find expected key (line 3, column 2)"),
        ("a:\n   b: c\n  d: e\n", "begins at line 1, column 1; indent the keys of one mapping alike"),
        (
            "a:\n  b:c\n  d: e",
            "mapping values are not allowed in this context (line 3, column 4); indent the keys",
        ),
        ("a: 1\n---\nb: 2", "a single document in the stream, but found another document (line 2, column 1); a rules"),
        ("p: [a", "',' or ']'"),
        ("p: {a: b", "',' or '}'"),
        ("p: [a", "(line 1, column 6)"),
        ("- 注\n- [a", "(line 2, column 5)"),
        ("p: [a\n", "(line 2, column 1)"),
        ("a: &a [*a]", "is nested in its own anchor"),
        ("a: &a {<<: *a}", "is nested in its own anchor"),
        ("<<: 1", "<< takes a mapping"),
        ('"\\UFFFFFFFF": 1', "not valid YAML"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('a: "\\ud800"', "invalid Unicode character escape code (line 1, column 7)"),
        ('"\\ud800": a', "invalid Unicode character escape code (line 1, column 4)"),
        ("a: 1\n" * 3 + "#" * MAX_BYTES, "larger than 1024 KiB"),
    ],
)
def test_an_unreadable_text_is_reported_with_position_and_reason(text: str, expected: str) -> None:
    assert expected in message(text)


@pytest.mark.parametrize(
    "text",
    [
        "password: *hunter2hunter2",
        "password: &hunter2hunter2",
        "a: &hunter2hunter2 1\nb: &hunter2hunter2 [",
        "password: !hunter2hunter2",
        "password: !x!hunter2hunter2",
        "password: %hunter2hunter2",
        "password: @hunter2hunter2",
        'password: "hunter2hunter2\n  a: b',
        "password: hunter2hunter2: b",
        '{"password": "hunter2hunter2" "b"}',
        "{password: 'hunter2hunter2' 'b'}",
        "password: |hunter2hunter2",
        '"a\\hunter2hunter2": 1',
    ],
)
def test_no_message_repeats_a_value(text: str) -> None:
    assert "hunter2" not in "".join(map(str, read_document(text).problems))


PURE_PYTHON_LOADER = type("PurePythonLoader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password: *hunter2hunter2", "an alias (*) without an anchor"),
        ("password: !x!hunter2hunter2", "found undefined tag handle … (line 1, column 11)"),
        ("password: !hunter2hunter2!hunter2", "found undefined tag handle … (line 1, column 11)"),
        ("password: @hunter2hunter2", "found a character that cannot start any token (line 1, column 11); quote"),
        ("a: [hunter2", "expected ',' or ']', but got '<stream end>' (line 1, column 12)"),
        ("# 注释\na: \x01hunter2", "the file contains a control character (line 2, column 4)"),
    ],
)
def test_messages_are_as_good_without_libyaml(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "_Loader", PURE_PYTHON_LOADER)
    monkeypatch.setattr(yaml_text, "_WITH_LIBYAML", False)
    assert expected in message(text)
    assert "hunter2" not in message(text)


def test_aliases_cannot_multiply_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert f"more than {MAX_VALUES} values" in message("\n".join(lines))


@pytest.mark.parametrize("brackets", ["[]", '{"a":}', "{a: }"])
def test_nesting_is_bounded(brackets: str) -> None:
    for depth in (MAX_DEPTH + 5, 50_000):
        text = brackets[:-1] * depth + "1" + brackets[-1] * depth
        assert f"more than {MAX_DEPTH} levels" in message(text)


def test_many_values_are_refused_in_json_too() -> None:
    assert "more than" in message(json.dumps([0] * (MAX_VALUES + 1)))


JSON = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_json(value: object) -> None:
    text = json.dumps({"a": value})
    assert read_document(text).value == {"a": value}


@given(
    st.text() | st.text(alphabet="{}[]:,&*!|>'\"#-?%@` \n\tab<~$\\0") | st.binary().map(lambda b: b.decode("latin-1"))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    document = read_document(text)
    assert document.readable or document.problems


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_before_anything_recurses(opening: str) -> None:
    assert f"nested more than {MAX_DEPTH} levels deep" in message(opening * (MAX_BYTES // 8))
