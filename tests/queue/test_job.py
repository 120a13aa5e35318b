"""Jobs and outcomes as values, and their form inside Redis."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import Finished, Job
from replicator.queue.job import decode_job, encode_job
from replicator.queue.records import decode, encode

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_a_payload_comes_back_as_it_was(payload: dict[str, Any]) -> None:
    assert decode_job(encode_job(Job("r.example/a:1", payload))).payload == payload


@given(st.binary())
def test_whatever_is_stored_is_a_job_or_a_clear_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="stored job"):
        decode_job(data)


@given(JSON)
def test_json_that_is_no_job_is_a_clear_error(data: Any) -> None:
    with pytest.raises(ValueError, match="stored job"):
        decode_job(json.dumps({"t": None, "f": "handle", "a": [], "k": data, "et": data}).encode())


def test_a_job_is_stored_as_json_and_not_as_a_pickle() -> None:
    assert json.loads(encode_job(Job("r.example/a:1", {"x": 1})))["k"] == {"payload": {"x": 1}}


@given(st.dictionaries(TEXT, JSON, max_size=4), st.integers(1, 99))
def test_an_outcome_comes_back_as_it_was(outcome: dict[str, Any], tries: int) -> None:
    finished = Finished("r.example/a:1", outcome, None, None, tries, 1.5)
    assert decode(Finished, encode(finished)) == finished


def test_a_failure_comes_back_as_it_was() -> None:
    finished = Finished("a", None, "no", ErrorClass.NOT_YET, 1, 0, retrying=True)
    assert decode(Finished, encode(finished)) == finished


@pytest.mark.parametrize("payload", [{"x": object()}, {"x": float("nan")}, {"x": "\ud800"}, {"x": {1, 2}}])
def test_a_payload_that_is_no_json_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"payload of r\.example/a:1"):
        encode_job(Job("r.example/a:1", payload))


@pytest.mark.parametrize("job_id", ["", "x" * 1025])
def test_an_id_that_is_no_reference_is_refused(job_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        Job(job_id, {})


def test_a_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Job("r.example/a:1", {}, retries=-1)
