"""Names of ACR: what each edition holds, and what is only doubtful."""

from __future__ import annotations

import pytest

from replicator.aliyun.acr import EDITIONS, name_doubt, name_problem
from replicator.reference import Repository

CLASSIC = "registry.cn-beijing.aliyuncs.com"
PERSONAL = "crpi-abc-vpc.cn-hangzhou.personal.cr.aliyuncs.com"
ENTERPRISE = "acme-registry.cn-beijing.cr.aliyuncs.com"
NEWER = "registry.of.another.form.aliyuncs.com"


@pytest.mark.parametrize(
    ("registry", "namespace", "repository"),
    [(CLASSIC, 30, 64), (PERSONAL, 30, 64), (ENTERPRISE, 120, 120), (NEWER, 120, 120), ("hub.example.com", 120, 134)],
)
def test_each_edition_holds_names_of_its_own_lengths(registry: str, namespace: int, repository: int) -> None:
    assert name_problem(Repository(registry, f"{'n' * namespace}/{'r' * repository}")) is None


@pytest.mark.parametrize(
    ("registry", "kind", "length", "takes"),
    [
        (CLASSIC, "namespace", 31, "the Personal Edition takes 2 to 30"),
        (PERSONAL, "repository", 65, "the Personal Edition takes 2 to 64"),
        (ENTERPRISE, "namespace", 121, "the Enterprise Edition takes 2 to 120"),
        (ENTERPRISE, "repository", 121, "the Enterprise Edition takes 2 to 120"),
        (NEWER, "repository", 121, "the Enterprise Edition takes 2 to 120"),
    ],
)
def test_a_name_that_is_too_long_is_told_with_its_length_and_the_edition_s(
    registry: str, kind: str, length: int, takes: str
) -> None:
    name = "x" * length
    problem = name_problem(Repository(registry, f"{name}/app" if kind == "namespace" else f"mirror/{name}"))
    assert problem is not None
    assert problem.startswith(f"ACR can't hold this destination: the {kind} {'x' * 25}… has {length} characters, ")
    assert problem.endswith(takes)


def test_only_the_personal_edition_takes_no_dot_in_a_namespace() -> None:
    problem = name_problem(Repository(CLASSIC, "my.team/app.api"))
    assert "the namespace my.team has a dot" in str(problem)
    assert name_problem(Repository(ENTERPRISE, "my.team/app")) is None
    assert name_problem(Repository(CLASSIC, "team/app.api")) is None


def test_a_name_of_one_character_is_doubtful_at_acr_alone() -> None:
    assert name_problem(Repository(CLASSIC, "mirror/a")) is None
    assert "the repository a: its documents say that" in str(name_doubt(Repository(ENTERPRISE, "mirror/a")))
    assert "the namespace m: " in str(name_doubt(Repository(CLASSIC, "m/app")))
    assert name_doubt(Repository(CLASSIC, "mirror/ab")) is None
    assert name_doubt(Repository("hub.example.com", "mirror/a")) is None


@pytest.mark.parametrize("name", [f"{'n' * 31}/app", "my.team/app", f"mirror/{'r' * 65}"])
def test_what_one_edition_alone_holds_is_doubtful_until_the_edition_is_known(name: str) -> None:
    destination = Repository(NEWER, name)
    assert name_problem(destination) is None
    assert "ACR may refuse this destination: the " in str(name_doubt(destination))
    EDITIONS.learn(NEWER, "registry.aliyuncs.com:cn-beijing:26842")
    assert "the Personal Edition" in str(name_problem(destination))
    assert name_doubt(destination) is None
    EDITIONS.learn(NEWER, "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef")
    assert (name_problem(destination), name_doubt(destination)) == (None, None)


def test_a_domain_of_one_s_own_has_the_names_of_its_edition_as_soon_as_that_is_known() -> None:
    destination = Repository("images.example.com", f"mirror/{'r' * 121}")
    assert name_problem(destination) is None
    EDITIONS.learn(destination.registry, "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef")
    assert "the Enterprise Edition takes 2 to 120" in str(name_problem(destination))
