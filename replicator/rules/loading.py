"""Loader of rules files: files become `Rules`, or an error with every mistake in them.

`load` is strict. `settle` is for processes that run for years: a file with a mistake takes out only its own rules.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from replicator.errors import ConfigError, Problem
from replicator.rules.auth import read_auth
from replicator.rules.collisions import CollisionSearch
from replicator.rules.credentials import Credentials, PersonalUses, find_logins, find_unused, join_credentials
from replicator.rules.defaults import Content, RulesOptions, read_defaults
from replicator.rules.document import RulesFile, find_files, read_document, read_files, read_text
from replicator.rules.images import read_images
from replicator.rules.node import Node, in_order, join
from replicator.rules.ruleset import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from replicator.rules.credentials import Elsewhere, NamedDestination
    from replicator.rules.rule import Rule

_NO_IMAGES = "is missing; it maps sources to destinations, see docs/rules.md"
SECTIONS = ("auth", "defaults", "images")
"""Keys at the top level of a rules file."""


def load(config: Path | None, *, auth: Path | None = None, images: Path | None = None, **options: Any) -> Rules:
    """Read the rules from one file, from those of a directory, or from one for ``auth`` and one for ``images``.

    A relative ``ca_file`` is relative to the folder of its file. See ``docs/rules.md``.

    Args:
        config: a file with ``auth``, ``defaults`` and ``images``, JSON or YAML; or a directory of such files.
        auth: a file with only the ``auth`` mapping; goes with ``images`` instead of ``config``.
        images: a file with only the ``images`` mapping.
        options: those of `RulesOptions`.

    Raises:
        ConfigError: a file can't be read or has mistakes; with every problem of all files at once.
    """
    files, source = find_files(config, auth=auth, images=images)
    return _strict(files, source, RulesOptions(**options))


def load_credentials(
    config: Path | None,
    *,
    auth: Path | None = None,
    environ: Mapping[str, str] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Credentials:
    """Read the logins only; the rest of the rules files may be missing or have mistakes.

    Args:
        config: a rules file, or a directory of them.
        auth: a file with only the ``auth`` mapping, instead of ``config``.
        environ: the values of ``${NAME}``; by default the environment.
        elsewhere: logins for registries that have none in the file.

    Raises:
        ConfigError: a file can't be read or has mistakes; with every problem at once.
    """
    path = config if config is not None else auth
    if path is None or (config is not None and auth is not None):
        message = "give a rules file (--config), or a file with its auth part (--auth); not both"
        raise ConfigError("command line", [Problem("", message)])
    files = read_files(path) if config is not None else [RulesFile("", {"auth": read_text(path)}, path.parent)]
    parts, problems = [], list[Problem]()
    for file in files:
        part = _Part(file)
        sections = part.read_sections()
        node = Node(sections.get("auth", {}), part.path("auth"), problems)
        problems += part.problems()
        part.credentials = read_auth(node, os.environ if environ is None else environ, file.folder, [], elsewhere)
        parts.append(part)
    joined = _Joined(parts, with_images=False)
    if problems or joined.has_problems:
        raise ConfigError(str(path), [*problems, *joined.problems()])
    return joined.credentials


def parse(text: str, source: str, **options: Any) -> Rules:
    """Read the rules from the text of a rules file; a relative ``ca_file`` is relative to the working directory.

    Args:
        text: JSON or YAML.
        source: the name of the text, for errors.
        options: those of `RulesOptions`.

    Raises:
        ConfigError: the text has mistakes; with every problem at once.
    """
    return _strict([RulesFile("", {"": text})], source, RulesOptions(**options))


def _strict(files: Iterable[RulesFile], source: str, options: RulesOptions) -> Rules:
    joined = _Joined([_Part(file).read(options) for file in files])
    if (problems := joined.problems()) or not joined.has_rules:
        raise ConfigError(source, problems or [Problem("images", _NO_IMAGES)])
    return joined.rules()


@dataclass(frozen=True, slots=True)
class Version:
    """The last accepted version of a rules file.

    Attributes:
        file: its text then.
        accepted: when, in seconds since 1970.
        part: what it said then, with the values that its variables had; None in a process that has not read it.
    """

    file: RulesFile
    accepted: float
    part: _Part | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rules file that can't be used as it is now.

    Attributes:
        file: its name in the directory; empty for the only file.
        problems: why, each with the file's name in its path.
        accepted: when the version in force was accepted, in seconds since 1970; None if none of its rules are in force.
    """

    file: str
    problems: tuple[Problem, ...]
    accepted: float | None


@dataclass(frozen=True, slots=True)
class Settled:
    """The rules of all files that go together.

    Attributes:
        refused: the files that can't be used as they are.
        accepted: the last accepted version of each file, by its name.
    """

    rules: Rules
    refused: tuple[Refusal, ...]
    accepted: Mapping[str, Version]


def settle(
    files: Iterable[RulesFile], source: str, accepted: Mapping[str, Version], options: RulesOptions, now: float
) -> Settled:
    """Read files as `load` does, but keep the last accepted version of one that has a mistake or that does not fit.

    Without such a version its rules are left out; its logins stay, as other files may need them.

    Args:
        files: as they are now.
        source: their name, for the error.
        accepted: the last accepted version of each, by its name.
        options: what they depend on.
        now: seconds since 1970.

    Raises:
        ConfigError: no rule is left; with every problem of all files.
    """
    parts = {file.name: _Part(file).read(options) for file in files}
    kept = {name: part for name, now in parts.items() if (part := _kept(accepted.get(name), now, options)) is not None}
    wanted = {name: part if part.is_sound else kept.get(name, part.without_rules()) for name, part in parts.items()}
    joined = _Joined(wanted.values())
    clashing = {name: list[Problem]() for name in parts}
    if joined.has_problems:
        wanted = _fitting(wanted, kept, set(joined.clashing), clashing)
        joined = _Joined(wanted.values())
    versions: dict[str, Version] = {}
    refused: list[Refusal] = []
    for name, part in parts.items():
        found, former = wanted.get(name), accepted.get(name)
        if found is part:
            since = former.accepted if former is not None and former.file.texts == part.file.texts else now
            versions[name] = Version(part.file, since, part)
            continue
        is_former = former is not None and found is not None and found is kept.get(name)
        if former is not None:
            # It may become usable again, when its variables are set.
            versions[name] = replace(former, part=found) if is_former else former
        problems = (*part.problems(), *clashing[name])
        refused.append(Refusal(name, problems, former.accepted if former is not None and is_former else None))
    out = [each.file for each in refused if each.accepted is None]
    if not joined.has_rules:
        found_all = [problem for each in refused for problem in each.problems]
        raise ConfigError(source, found_all or [Problem("images", _NO_IMAGES)])
    return Settled(joined.rules(out), tuple(refused), versions)


def _kept(version: Version | None, now: _Part, options: RulesOptions) -> _Part | None:
    """Read an accepted version again, since a password may have changed; if that fails, return it as it was."""
    if version is None:
        return None
    part = now if now.file.texts == version.file.texts else _Part(version.file).read(options)
    return part if part.is_sound else version.part


def _fitting(
    wanted: Mapping[str, _Part], kept: Mapping[str, _Part], clashing: set[str], problems: Mapping[str, list[Problem]]
) -> dict[str, _Part]:
    """Choose a version of each file so that all fit together: a change that does not is left out.

    Args:
        wanted: the version of each file that is to be in force.
        kept: the accepted versions.
        clashing: files with a problem beside the others.
        problems: collects why a file is left out, by its name.
    """

    def joined(found: Mapping[str, _Part]) -> _Joined:
        return _Joined([found[name] for name in wanted if name in found])

    found = {} if joined(kept).has_problems else dict(kept)
    quiet = {name: part for name, part in wanted.items() if name not in clashing and not part.is_rest}
    if not joined(found | quiet).has_problems:
        found |= quiet
    pending = {name: part for name, part in wanted.items() if found.get(name) is not part}
    # What is left of a file with mistakes must not keep out another one.
    pending = dict(sorted(pending.items(), key=lambda item: item[1].is_rest))
    # A login may move from one file to another, so what did not fit at first may do so later.
    while fitting := {name for name, part in pending.items() if _add(name, part, found, joined)}:
        pending = {name: part for name, part in pending.items() if name not in fitting}
    for name, part in pending.items():
        problems[name] += joined(found | {name: part}).problems(joint_only=True)
        if name not in found and name in kept:
            _add(name, kept[name], found, joined)
    return {name: found[name] for name in wanted if name in found}


def _add(name: str, part: _Part, found: dict[str, _Part], joined: Callable[[Mapping[str, _Part]], _Joined]) -> bool:
    """Add a version of a file to ``found`` if it fits; return whether it did."""
    if joined(found | {name: part}).has_problems:
        return False
    found[name] = part
    return True


class _Part:
    """One file by itself: its rules and logins, and its own mistakes, by section in the order of the file.

    Attributes:
        file: its text.
        rules: those without mistakes.
        named: what needs a login.
        credentials: the sound logins.
        warnings: allowed settings that look like a mistake.
        is_rest: whether it is what is left of a file with mistakes, see `without_rules`.
    """

    def __init__(self, file: RulesFile) -> None:
        self.file = file
        self.rules: list[Rule] = []
        self.named: list[NamedDestination] = []
        self.credentials = Credentials({})
        self.warnings: list[Problem] = []
        self.images: Node | None = None
        self.is_rest = False
        self.found: dict[str, list[Problem]] = {"": [self._placed(problem) for problem in file.problems]}

    def path(self, section: str) -> str:
        """Return the path of a section, which begins with the file's name if there are several."""
        return f"{self.file.name}: {section}" if self.file.name else section

    def _placed(self, problem: Problem) -> Problem:
        return replace(problem, path=self.path(problem.path) if problem.path else self.file.name)

    @property
    def is_sound(self) -> bool:
        """Whether the file by itself has no mistakes."""
        return not any(self.found.values())

    def without_rules(self) -> _Part:
        """Return its logins alone."""
        part = _Part(RulesFile(self.file.name, {}, self.file.folder))
        part.is_rest, part.credentials = True, self.credentials
        return part

    def problems(self, joint: Mapping[str, list[Problem]] | None = None) -> list[Problem]:
        """Return its mistakes, and those beside other files (``joint``), by section and rule."""
        joint = joint or {}
        found: list[Problem] = []
        for section in dict.fromkeys((*self.found, *joint)):
            both = [*self.found.get(section, ()), *joint.get(section, ())]
            found += in_order(both, self.images) if section == "images" else both
        return found

    def read_sections(self) -> dict[str, Any]:
        """Return the sections; mistakes in the text are noted."""
        sections: dict[str, Any] = {}
        for section, text in self.file.texts.items():
            document = read_document(text, section)
            self.found[""] += map(self._placed, document.problems)
            if section:
                sections[section] = document.value
                if not document.readable:
                    return {}
            elif document.readable:
                unplaced: list[Problem] = []
                nodes = Node(document.value, "", unplaced).mapping(SECTIONS)
                self.found[""] += map(self._placed, unplaced)
                sections = {name: node.value for name, node in (nodes or {}).items()}
        return sections

    def read(self, options: RulesOptions) -> _Part:
        """Read everything; return itself."""
        sections = self.read_sections()
        if not sections and self.found[""]:
            return self
        # Defaults are read first, but problems are reported in the order of the file, so each section has its list.
        self.found |= {name: [] for name in (*sections, *SECTIONS, "options")}
        nodes = {name: Node(value, self.path(name), self.found[name]) for name, value in sections.items()}
        environ = os.environ if options.environ is None else options.environ
        names = {"registry": options.registry, "namespace": options.namespace}
        defaults = read_defaults(nodes.get("defaults"), environ, names, self.found["options"], self.warnings)
        if options.platforms:
            defaults = replace(defaults, content=Content(options.platforms).over(defaults.content))
        self.credentials = Credentials({}, elsewhere=options.elsewhere)
        if "auth" in nodes:
            self.credentials = read_auth(nodes["auth"], environ, self.file.folder, self.warnings, options.elsewhere)
        self.images = nodes.get("images")
        if self.images is not None:
            rules, self.named = read_images(self.images, defaults, environ, self.warnings)
            self.rules = [replace(rule, file=self.file.name) for rule in rules]
        elif not (self.file.name and "auth" in nodes):
            # A file of a directory may have nothing but logins.
            self.found["images"].append(Problem(self.path("images"), _NO_IMAGES))
        return self


class _Joined:
    """Files together: their rules and logins, and the mistakes that show only beside the others.

    Attributes:
        credentials: the logins of all.
        clashing: these mistakes, by file and section.
        has_rules: whether there is any rule.
    """

    def __init__(self, parts: Iterable[_Part], *, with_images: bool = True) -> None:
        self._parts = list(parts)
        self.clashing: dict[str, dict[str, list[Problem]]] = {}
        paths = {part.file.name: part.path("auth") for part in self._parts}
        self.credentials, collisions = join_credentials((part.file.name, part.credentials) for part in self._parts)
        for key, name, other in collisions:
            message = f"collision: {other} has another login for it; make the two equal, or use longer keys: {key}/…"
            self._note(name, "auth", Problem(join(paths[name], key), message))
        search = CollisionSearch()
        search.check(rule for part in self._parts for rule in part.rules)
        for name, problem in search.problems:
            self._note(name, "images", problem)
        self._warnings = search.warnings
        self._logins: dict[tuple[str, str], None] = {}
        for part in self._parts if with_images else ():
            missing, logins = find_logins(part.named, self.credentials, paths[part.file.name])
            self._logins |= dict.fromkeys(logins)
            for problem in missing:
                self._note(part.file.name, "auth", problem)
        self.has_rules = any(part.rules for part in self._parts)

    def _note(self, name: str, section: str, problem: Problem) -> None:
        self.clashing.setdefault(name, {}).setdefault(section, []).append(problem)

    @property
    def has_problems(self) -> bool:
        """Whether there are mistakes that show only beside the others."""
        return bool(self.clashing)

    def problems(self, *, joint_only: bool = False) -> list[Problem]:
        """Return all mistakes, or only those that show beside the others; each once, file by file."""
        if joint_only:
            return [problem for sections in self.clashing.values() for found in sections.values() for problem in found]
        found = [problem for part in self._parts for problem in part.problems(self.clashing.get(part.file.name))]
        # A mistake in an option is one of every file.
        return list(dict.fromkeys(found))

    def rules(self, out: Iterable[str] = ()) -> Rules:
        """Return the rules; ``out`` names the files that are left out."""
        named = [name for part in self._parts for name in part.named]
        warnings = [warning for part in self._parts for warning in part.warnings] + self._warnings
        for part in self._parts:
            warnings += find_unused(named, part.credentials, part.path("auth"))
        elsewhere = self.credentials.elsewhere
        if elsewhere is not None and elsewhere.problem is not None:
            # A registry that needs a login from there is reported as an error.
            warnings.append(elsewhere.problem)
        rules = [rule for part in self._parts for rule in part.rules]
        warnings += [Problem("images", text) for text in PersonalUses(rules, self.credentials.find).problems()]
        return Rules(rules, self.credentials, warnings, self._logins, out)
