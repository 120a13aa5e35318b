"""A directory of rules files: one file a team, joined, with every problem told by the name of its file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ConfigError
from replicator.reference import Reference, Repository
from replicator.rules import load, load_credentials
from replicator.rules.defaults import RulesOptions
from replicator.rules.document import find_files
from replicator.rules.loading import Version, settle
from tests.rules.building import ACR, AUTH, HARBOR, PLAIN, goes_to

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from replicator.rules.loading import Settled

A = {f"{HARBOR}/a/app": f"{ACR}/a/app"}
B = {f"{HARBOR}/b/app": f"{ACR}/b/app"}
LOGIN = {"username": "u", "password": "p"}


def write(folder: Path, name: str, images: Any = None, auth: Any = AUTH, **sections: Any) -> None:
    content = {"auth": auth, "images": images} | sections
    text = json.dumps({section: value for section, value in content.items() if value is not None})
    (folder / name).write_text(text)


def problems_of(folder: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, environ=environ)
    assert caught.value.source == str(folder)
    return [str(problem) for problem in caught.value.problems]


def settled(folder: Path, accepted: Mapping[str, Version] | None = None, now: float = 1.0, **environ: str) -> Settled:
    files, source = find_files(folder)
    return settle(files, source, accepted or {}, RulesOptions(environ=environ), now)


def copies(found: Settled) -> set[str]:
    return {end for team in "abc" for end in goes_to(found.rules, f"{HARBOR}/{team}/app:1")}


def test_the_rules_of_all_files_are_in_force_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", B)
    write(tmp_path, "a.json", A)
    write(tmp_path, "c.yml", {f"{HARBOR}/c/app": f"{ACR}/c/app"})
    rules = load(tmp_path, environ={})
    assert rules.keys == (f"{HARBOR}/a/app", f"{HARBOR}/b/app", f"{HARBOR}/c/app")
    explained = rules.explain(Reference.parse(f"{HARBOR}/b/app:1"))
    assert [(item.file, item.matches) for item in explained] == [("a.json", False), ("b.yaml", True), ("c.yml", False)]


def test_a_mounted_configmap_is_read_once_and_nothing_else_counts_as_rules(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    write(tmp_path / "..2026", "a.yaml", A)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "d.yaml").mkdir()
    write(tmp_path / "d.yaml", "b.yaml", B)
    for name in (".hidden.yaml", "a.yaml~", "README.md", "rules.schema.json", "yaml"):
        (tmp_path / name).write_text("{")
    assert load(tmp_path, environ={}).keys == tuple(A)


def test_a_directory_without_rules_files_is_an_error_that_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text("{}")
    assert problems_of(tmp_path) == ["no rules file is in this directory: name it *.yaml, *.yml or *.json"]
    write(tmp_path, "a.yaml")
    (problem,) = problems_of(tmp_path)
    assert problem.startswith("images: is missing")


def test_what_is_no_file_is_a_problem_and_is_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    gone, pipe = problems_of(tmp_path)
    assert gone.startswith("gone.yaml: there is no such file")
    assert pipe == "pipe.yaml: is not a regular file"


def test_a_files_defaults_hold_for_its_own_rules_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {f"{HARBOR}/a/app": ""}, defaults={"registry": ACR, "namespace": "team-a"})
    write(tmp_path, "b.yaml", {f"{HARBOR}/b/app": ""}, defaults={"registry": PLAIN, "namespace": "team-b"})
    rules = load(tmp_path, environ={})
    assert goes_to(rules, f"{HARBOR}/a/app:1") == {f"{ACR}/team-a/app:1"}
    assert goes_to(rules, f"{HARBOR}/b/app:1") == {f"{PLAIN}/team-b/app:1"}


def test_a_file_may_hold_the_logins_of_the_others_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "z-logins.yaml", auth={HARBOR: LOGIN, ACR: LOGIN})
    write(tmp_path, "a.yaml", A, auth=None)
    write(tmp_path, "b.yaml", B, auth={HARBOR: LOGIN})
    rules = load(tmp_path, environ={})
    access = rules.credentials(Repository(ACR, "a/app"))
    assert access is not None
    assert access.username == "u"
    found = load_credentials(tmp_path, environ={}).find(Repository(HARBOR, "x/y"))
    assert found is not None
    assert not [warning for warning in rules.warnings if "auth" in warning.path]


def test_two_logins_of_one_host_collide_with_both_names_unless_they_are_equal(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A, auth={HARBOR.upper(): LOGIN | {"password": "${ONE}"}, ACR: LOGIN})
    write(tmp_path, "b.yaml", B, auth={HARBOR: LOGIN | {"password": "${TWO}"}})
    (problem,) = problems_of(tmp_path, ONE="1", TWO="2")
    assert problem.startswith(f'b.yaml: auth["{HARBOR}"]: collision: a.yaml has another login')
    with pytest.raises(ConfigError, match="has another login"):
        load_credentials(tmp_path, environ={"ONE": "1", "TWO": "2"})
    assert len(load(tmp_path, environ={"ONE": "1", "TWO": "1"}).keys) == 2


def test_equal_accounts_of_alibaba_cloud_are_one_login(tmp_path: Path) -> None:
    account = {"aliyun": {"access_key_id": "i", "access_key_secret": "s", "region": "cn-beijing"}}
    write(tmp_path, "a.yaml", A, auth={HARBOR: LOGIN, ACR: account})
    write(tmp_path, "b.yaml", B, auth={ACR: account})
    assert len(load(tmp_path, environ={}).keys) == 2
    write(tmp_path, "b.yaml", B, auth={ACR: {"aliyun": account["aliyun"] | {"region": "cn-hangzhou"}}})
    assert "collision" in problems_of(tmp_path)[0]


def test_two_rules_that_collide_are_told_with_both_files(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", {f"{HARBOR}/b/app": f"{ACR}/a/app"})
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f'b.yaml: images["{HARBOR}/b/app"]: collision: ')
    assert f"{HARBOR}/a/app in a.yaml" in problem


def test_possible_collisions_are_warned_of_with_both_files(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {f"{HARBOR}/a/**": f"{ACR}/x/{{name}}"})
    write(tmp_path, "b.yaml", {f"{HARBOR}/b/**": f"{ACR}/x/{{name}}"})
    (warning,) = (str(each) for each in load(tmp_path, environ={}).warnings if "collision" in each.message)
    assert warning.startswith("b.yaml: images")
    assert f"{HARBOR}/a/** in a.yaml" in warning


def test_two_files_may_copy_the_same_source_and_equal_copies_are_made_once(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", {f"{HARBOR}/a/app": [f"{ACR}/a/app", f"{ACR}/b/app"]})
    rules = load(tmp_path, environ={})
    requests = rules.destinations(Reference.parse(f"{HARBOR}/a/app:1"))
    assert sorted(str(request.destination) for request in requests) == [f"{ACR}/a/app:1", f"{ACR}/b/app:1"]


def test_every_problem_of_all_files_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {"nohost": "", f"{HARBOR}/a/app": f"{ACR}/a/app"})
    write(tmp_path, "b.yaml", B, auth={HARBOR: LOGIN | {"password": "${UNSET}"}})
    (tmp_path / "c.yaml").write_text("images: [\n")
    (tmp_path / "d.yaml").write_bytes(b"images: \xff")
    write(tmp_path, "e.yaml", {f"{HARBOR}/e/app": f"{ACR}/a/app"})
    files = [problem.partition(":")[0] for problem in problems_of(tmp_path)]
    assert list(dict.fromkeys(files)) == ["a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml"]


def test_an_option_that_is_wrong_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", B)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={}, registry="no host")
    assert [problem.path for problem in caught.value.problems] == ["--registry"]


BROKEN: list[tuple[str, Any]] = [
    ("typo", "images: [\n"),
    ("unknown key", json.dumps({"auth": AUTH, "images": {f"{HARBOR}/b/app": {"to": f"{ACR}/b/app", "tag": "x"}}})),
    ("unset variable", json.dumps({"auth": {ACR: LOGIN | {"password": "${UNSET}"}}, "images": B})),
    ("not UTF-8", b"\xff"),
    ("empty", ""),
    ("collision", json.dumps({"auth": AUTH, "images": {f"{HARBOR}/b/app": f"{ACR}/a/app"}})),
    ("another login", json.dumps({"auth": {HARBOR: LOGIN}, "images": B})),
]


@pytest.mark.parametrize("content", [content for _, content in BROKEN], ids=[name for name, _ in BROKEN])
def test_a_file_with_a_problem_takes_out_only_its_own_rules(tmp_path: Path, content: str | bytes) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", B)
    good = settled(tmp_path)
    assert not good.refused
    (tmp_path / "b.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    write(tmp_path, "c.yaml", {f"{HARBOR}/c/app": f"{ACR}/c/app"})
    for accepted, expected in ((good.accepted, {"a", "b", "c"}), ({}, {"a", "c"})):
        found = settled(tmp_path, accepted, now=2.0)
        assert copies(found) == {f"{ACR}/{team}/app:1" for team in expected}
        (refused,) = found.refused
        assert (refused.file, refused.accepted) == ("b.yaml", 1.0 if accepted else None)
        assert all(problem.path.startswith("b.yaml") for problem in refused.problems)
        assert refused.problems
        assert found.rules.out == (() if accepted else ("b.yaml",))
        assert set(found.accepted) == ({"a.yaml", "b.yaml", "c.yaml"} if accepted else {"a.yaml", "c.yaml"})


def test_the_logins_of_a_file_whose_rules_are_out_still_serve_the_others(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {"nohost": ""}, auth={HARBOR: LOGIN, ACR: LOGIN})
    write(tmp_path, "b.yaml", B, auth=None)
    found = settled(tmp_path)
    assert copies(found) == {f"{ACR}/b/app:1"}
    assert [each.file for each in found.refused] == ["a.yaml"]


def test_what_is_left_of_a_file_with_mistakes_does_not_keep_out_another(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", {"nohost": ""}, auth={HARBOR: LOGIN | {"username": "another"}, ACR: LOGIN})
    write(tmp_path, "b.yaml", B, auth={HARBOR: LOGIN, ACR: LOGIN})
    found = settled(tmp_path)
    assert copies(found) == {f"{ACR}/b/app:1"}
    assert [each.file for each in found.refused] == ["a.yaml"]
    access = found.rules.credentials(Repository(HARBOR, "b/app"))
    assert access is not None
    assert access.username == "u"


def test_of_files_that_collide_the_one_that_was_accepted_before_stays(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", B)
    before = settled(tmp_path)
    write(tmp_path, "a.yaml", {f"{HARBOR}/a/app": f"{ACR}/b/app"})
    for found in (settled(tmp_path, before.accepted), settled(tmp_path, before.accepted)):
        assert copies(found) == {f"{ACR}/b/app:1"}
        assert [each.file for each in found.refused] == ["a.yaml"]
    assert [each.file for each in settled(tmp_path).refused] == ["b.yaml"], "the first by name, where none was accepted"


def test_a_change_that_takes_a_login_from_others_is_refused_and_not_the_others(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", B, auth=None)
    before = settled(tmp_path)
    write(tmp_path, "a.yaml", A, auth={HARBOR: AUTH[HARBOR]})
    (tmp_path / "c.yaml").write_text("[")
    found = settled(tmp_path, before.accepted)
    assert copies(found) == {f"{ACR}/a/app:1", f"{ACR}/b/app:1"}
    assert [(each.file, each.accepted) for each in found.refused] == [("a.yaml", 1.0), ("c.yaml", None)]
    assert any(problem.path.startswith(f'b.yaml: auth["{ACR}"]') for problem in found.refused[0].problems)
    # Moved to another file at the same time, it is there all along.
    write(tmp_path, "b.yaml", B, auth={ACR: AUTH[ACR]})
    assert [each.file for each in settled(tmp_path, before.accepted).refused] == ["c.yaml"]


def test_an_accepted_version_takes_a_password_of_now_or_else_the_one_it_had(tmp_path: Path) -> None:
    def password(found: Settled) -> str | None:
        access = found.rules.credentials(Repository(ACR, "a/app"))
        return access.password if access is not None else None

    write(tmp_path, "a.yaml", A, auth={HARBOR: LOGIN, ACR: LOGIN | {"password": "${PASSWORD}"}})
    accepted = settled(tmp_path, PASSWORD="one").accepted
    (tmp_path / "a.yaml").write_text("[")
    assert password(settled(tmp_path, accepted, PASSWORD="two")) == "two"
    assert password(settled(tmp_path, accepted)) == "one"
    assert "one" not in repr(accepted)


def test_an_accepted_version_that_can_not_be_used_now_is_kept_for_later(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", B, auth=AUTH | {f"{ACR}/b": LOGIN | {"password": "${PASSWORD}"}})
    accepted = settled(tmp_path, PASSWORD="one").accepted
    # As another process reads it.
    stored = {name: Version(version.file, version.accepted) for name, version in accepted.items()}
    (tmp_path / "b.yaml").write_text("[")
    found = settled(tmp_path, stored)
    assert (copies(found), found.rules.out) == ({f"{ACR}/a/app:1"}, ("b.yaml",))
    assert [each.accepted for each in found.refused] == [None]
    found = settled(tmp_path, found.accepted, PASSWORD="one")
    assert (len(copies(found)), found.rules.out) == (2, ())


def test_a_file_that_is_removed_takes_its_rules_along(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", A)
    write(tmp_path, "b.yaml", B)
    before = settled(tmp_path)
    (tmp_path / "b.yaml").unlink()
    found = settled(tmp_path, before.accepted)
    assert (copies(found), found.refused, set(found.accepted)) == ({f"{ACR}/a/app:1"}, (), {"a.yaml"})


def test_without_any_rule_left_every_problem_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[")
    write(tmp_path, "b.yaml", {"nohost": ""})
    with pytest.raises(ConfigError) as caught:
        settled(tmp_path)
    assert {str(problem).partition(":")[0] for problem in caught.value.problems} == {"a.yaml", "b.yaml"}


def test_a_single_file_keeps_its_accepted_version_and_without_one_it_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "rules.yaml", A)
    accepted = settled(tmp_path / "rules.yaml").accepted
    write(tmp_path, "rules.yaml", {"nohost": ""})
    found = settled(tmp_path / "rules.yaml", accepted, now=2.0)
    assert copies(found) == {f"{ACR}/a/app:1"}
    assert [(each.file, each.accepted) for each in found.refused] == [("", 1.0)]
    with pytest.raises(ConfigError, match="nohost"):
        settled(tmp_path / "rules.yaml")
