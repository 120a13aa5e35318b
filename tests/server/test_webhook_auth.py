from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.server.auth import WebhookAuth
from replicator.settings import Settings


def auth(**given: Any) -> WebhookAuth:
    return WebhookAuth.of(Settings(_env_file=None, _secrets_dir=None, **given))


def test_the_current_token_and_every_former_one_match_and_are_distinguished() -> None:
    found = auth(webhook_token="new", webhook_former_tokens="old\nolder  oldest\n")
    assert found.matching_token("new") == found.matching_token("Bearer new") == "current"
    assert [found.matching_token(token) for token in ("old", "Bearer older", "oldest")] == ["former"] * 3
    for wrong in ("", "ol", "old\nolder", "old older", "Bearer", "Bearer ", "bearer new", "new ", "Basic new"):
        assert found.matching_token(wrong) is None


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_nothing_but_a_token_matches(header: str) -> None:
    assert (auth(webhook_token="new").matching_token(header) is not None) == (header in {"new", "Bearer new"})


@pytest.mark.parametrize("given", [{}, {"webhook_former_tokens": "old"}, {"webhook_token": " "}])
def test_no_token_is_a_mistake_unless_none_is_wanted(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="REPLICATOR_WEBHOOK_TOKEN"):
        auth(**given)
    assert auth(**given, webhook_anonymous=True).matching_token("anything") == "none needed"


def test_unlisted_and_unknown_addresses_are_refused() -> None:
    named = auth(webhook_token="t", webhook_sources="10.0.0.0/8, 192.0.2.7")
    assert named.allows_address("10.1.2.3")
    assert named.allows_address("192.0.2.7")
    assert not named.allows_address("192.0.2.8")
    assert not named.allows_address(None)
    assert auth(webhook_token="t").allows_address(None)
