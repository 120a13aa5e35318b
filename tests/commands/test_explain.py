"""``replicator explain``: what decides about an image, said without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.commands.explain import explain_reference
from replicator.errors import FAILED, OK
from replicator.reference import Reference
from replicator.registry.proxies import Proxies
from tests.rules.building import ACR, HARBOR, PLAIN, rules_of

if TYPE_CHECKING:
    import pytest


def explained(capsys: pytest.CaptureFixture[str], image: str, **tags: object) -> tuple[int, str]:
    rules = rules_of({f"{HARBOR}/team/**": {"to": f"{ACR}/ns/all:{{flat}}-{{tag}}", "tags": tags}})
    code = explain_reference(rules, Reference.parse(f"{HARBOR}/{image}"), Proxies())
    return code, capsys.readouterr().out


def test_a_label_is_named_as_what_decides_when_the_copy_starts(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = explained(capsys, "team/app:1", labels=["prod"])
    assert code == OK
    assert f"{ACR}/ns/all:team-app-1 (if it has the label prod when the copy starts" in said


def test_a_tag_that_gets_too_long_is_said_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = explained(capsys, f"team/app:{'x' * 128}", exclude=["latest"])
    assert code == FAILED
    assert " -> " not in said
    assert f"the copy of {HARBOR}/team/app:{'x' * 128} would fail: its tag would be " in said
    assert "a tag has at most 128" in said


def test_a_name_that_acr_can_not_hold_is_said_to_fail_and_a_doubtful_one_that_it_may(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = rules_of({f"{HARBOR}/team/**": [f"{ACR}/mirror/{{name}}", f"{PLAIN}/mirror/{{name}}"]})
    image = f"{HARBOR}/team/{'x' * 65}:v1"
    assert explain_reference(rules, Reference.parse(image), Proxies()) == FAILED
    said = capsys.readouterr().out
    assert f"the copy of {image} would fail: ACR can't hold this destination: the repository xxx" in said
    assert f" -> {PLAIN}/mirror/" in said
    assert f" -> {ACR}/mirror/" not in said
    assert explain_reference(rules, Reference.parse(f"{HARBOR}/team/a:v1"), Proxies()) == OK
    assert "may fail  ACR may refuse the repository a: " in capsys.readouterr().out
