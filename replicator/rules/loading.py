"""Loader of rules files: a file becomes `Rules`, or an error with every mistake in it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replicator.errors import ConfigError, Problem
from replicator.rules.auth import Credentials, describe_problem, read_auth
from replicator.rules.collisions import CollisionSearch
from replicator.rules.defaults import Content, read_defaults
from replicator.rules.document import MAX_BYTES, read_document
from replicator.rules.images import NamedDestination, read_images
from replicator.rules.node import Node, join
from replicator.rules.ruleset import Rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from replicator.reference import Platform
    from replicator.rules.auth import Elsewhere
    from replicator.rules.rule import Rule

_Options = tuple[str | None, str | None, "tuple[Platform, ...]", "Elsewhere | None"]
"""Options beside the files: registry, namespace, platforms, further logins."""
_RULE_PATH = re.compile(r'images(?:\["(?:[^"\\]|\\.)*"\]|\.[\w-]+)')
SECTIONS = ("auth", "defaults", "images")
"""Keys at the top level of a rules file."""


def load(
    config: Path | None,
    *,
    auth: Path | None = None,
    images: Path | None = None,
    environ: Mapping[str, str] | None = None,
    registry: str | None = None,
    namespace: str | None = None,
    platforms: tuple[Platform, ...] = (),
    elsewhere: Elsewhere | None = None,
) -> Rules:
    """Read the rules from one file, or from one for ``auth`` and one for ``images``.

    A relative ``ca_file`` is relative to the folder of its file. See ``docs/rules.md``.

    Args:
        config: a file with ``auth``, ``defaults`` and ``images``, JSON or YAML.
        auth: a file with only the ``auth`` mapping; goes with ``images`` instead of ``config``.
        images: a file with only the ``images`` mapping.
        environ: the values of ``${NAME}``; by default the environment.
        registry: the default registry; wins over the file's.
        namespace: the default namespace; wins over the file's.
        platforms: the default platforms; empty for the file's.
        elsewhere: logins for registries that have none in the files.

    Raises:
        ConfigError: a file can't be read or has mistakes; with every problem at once.
    """
    if config is not None:
        if auth is not None or images is not None:
            message = "give one rules file (--config) or two files (--auth and --images), not both"
            raise ConfigError("command line", [Problem("", message)])
        text = _read(config)
        return _parse({"": (text, config)}, str(config), environ, (registry, namespace, platforms, elsewhere))
    if images is None:
        message = "no rules: give a rules file (--config), or two files (--auth and --images)"
        raise ConfigError("command line", [Problem("", message)])
    files = {"auth": auth, "images": images}
    texts = {section: (_read(path), path) for section, path in files.items() if path is not None}
    return _parse(
        texts,
        " and ".join(str(path) for path in files.values() if path),
        environ,
        (registry, namespace, platforms, elsewhere),
    )


def load_credentials(
    config: Path | None,
    *,
    auth: Path | None = None,
    environ: Mapping[str, str] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Credentials:
    """Read the logins only; the rest of a rules file may be missing or have mistakes.

    Args:
        config: a rules file.
        auth: a file with only the ``auth`` mapping, instead of ``config``.
        environ: the values of ``${NAME}``; by default the environment.
        elsewhere: logins for registries that have none in the file.

    Raises:
        ConfigError: the file can't be read or has mistakes; with every problem at once.
    """
    file = config if config is not None else auth
    if file is None or (config is not None and auth is not None):
        message = "give a rules file (--config), or a file with its auth part (--auth); not both"
        raise ConfigError("command line", [Problem("", message)])
    sections, problems = _sections({"" if config is not None else "auth": (_read(file), file)}, str(file))
    node = Node(sections.get("auth", {}), "auth", problems)
    credentials = read_auth(node, os.environ if environ is None else environ, file.parent, [], elsewhere)
    if problems:
        raise ConfigError(str(file), problems)
    return credentials


def parse(
    text: str,
    source: str,
    *,
    environ: Mapping[str, str] | None = None,
    registry: str | None = None,
    namespace: str | None = None,
    platforms: tuple[Platform, ...] = (),
    elsewhere: Elsewhere | None = None,
) -> Rules:
    """Read the rules from the text of a rules file; a relative ``ca_file`` is relative to the working directory.

    Args:
        text: JSON or YAML.
        source: the name of the text, for errors.
        environ: the values of ``${NAME}``; by default the environment.
        registry: the default registry; wins over the text's.
        namespace: the default namespace; wins over the text's.
        platforms: the default platforms; empty for the text's.
        elsewhere: logins for registries that have none in the text.

    Raises:
        ConfigError: the text has mistakes; with every problem at once.
    """
    return _parse({"": (text, None)}, source, environ, (registry, namespace, platforms, elsewhere))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells that a file is too large without reading all of it.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file; see --config or REPLICATOR_CONFIG"
    except IsADirectoryError:
        problem = "this is a directory; give a file in it"
    except PermissionError:
        problem = "permission denied; check its owner and mode"
    except (OSError, ValueError) as error:
        problem = f"it can't be read: {error}"
    else:
        if len(data) > MAX_BYTES:
            raise ConfigError(
                str(path), [Problem("", f"larger than {MAX_BYTES // 1024} KiB, the limit for a rules file")]
            )
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problem = f"it is not UTF-8 (line {line}); save it as UTF-8"
    raise ConfigError(str(path), [Problem("", problem)])


def _parse(
    texts: Mapping[str, tuple[str, Path | None]],
    source: str,
    environ: Mapping[str, str] | None,
    options: _Options,
) -> Rules:
    sections, problems = _sections(texts, source)
    file = next(iter(texts.values()))[1]
    reading = _Reading(os.environ if environ is None else environ, file.parent if file is not None else None)
    rules = reading.read(sections, options)
    problems += reading.problems
    if problems:
        raise ConfigError(source, problems)
    return rules


def _sections(texts: Mapping[str, tuple[str, Path | None]], source: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the sections of all files, and the mistakes so far.

    Raises:
        ConfigError: a file can't be read at all.
    """
    problems: list[Problem] = []
    sections: dict[str, Any] = {}
    readable = True
    for section, (text, _) in texts.items():
        document = read_document(text, section)
        problems += document.problems
        readable = readable and document.readable
        if section:
            sections[section] = document.value
        elif document.readable:
            nodes = Node(document.value, "", problems).mapping(SECTIONS)
            readable = nodes is not None
            sections = {name: node.value for name, node in (nodes or {}).items()}
    if not readable:
        raise ConfigError(source, problems)
    return sections, problems


class _Reading:
    """Reads the sections, and collects mistakes in the order of the file."""

    def __init__(self, environ: Mapping[str, str], folder: Path | None) -> None:
        self._environ = environ
        self._folder = folder
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def read(self, sections: Mapping[str, Any], options: _Options) -> Rules:
        # Defaults are read first, but problems are reported in the order of the file, so each section has its list.
        found: dict[str, list[Problem]] = {name: [] for name in (*sections, *SECTIONS, "")}
        nodes = {name: Node(value, name, found[name]) for name, value in sections.items()}
        registry, namespace, platforms, elsewhere = options
        names = {"registry": registry, "namespace": namespace}
        defaults = read_defaults(nodes.get("defaults"), self._environ, names, found[""], self.warnings)
        if platforms:
            defaults = replace(defaults, content=Content(platforms).over(defaults.content))
        credentials = Credentials({}, elsewhere=elsewhere)
        if "auth" in nodes:
            credentials = read_auth(nodes["auth"], self._environ, self._folder, self.warnings, elsewhere)
        rules: list[Rule] = []
        named: list[NamedDestination] = []
        if "images" in nodes:
            rules, named = read_images(nodes["images"], defaults, self.warnings)
        else:
            found["images"].append(Problem("images", "is missing; it maps sources to destinations, see docs/rules.md"))
        collisions = CollisionSearch()
        collisions.check(rules)
        found["images"] += collisions.problems
        self.warnings += collisions.warnings
        missing, logins = _logins(named, credentials)
        found["auth"] += missing
        self.warnings += _unused(named, credentials)
        if elsewhere is not None and elsewhere.problem is not None:
            # A registry that needs a login from there is reported as an error above.
            self.warnings.append(elsewhere.problem)
        found["images"] = _in_order(found["images"], nodes.get("images"))
        for name in found:
            self.problems += found[name]
        return Rules(rules, credentials, self.warnings, logins)


def _in_order(problems: list[Problem], images: Node | None) -> list[Problem]:
    """Sort problems by their rule, in the order of the file."""
    keys = images.value if images is not None and isinstance(images.value, dict) else {}
    order = {join("images", key): number for number, key in enumerate(keys)}

    def number(problem: Problem) -> int:
        match = _RULE_PATH.match(problem.path)
        return order.get(match[0], -1) if match else -1

    return sorted(problems, key=number)


def _logins(named: Iterable[NamedDestination], credentials: Credentials) -> tuple[list[Problem], list[tuple[str, str]]]:
    """Return a problem for each registry without a login, and the origin of the login of every other one."""
    missing: dict[str, str] = {}
    logins: dict[tuple[str, str], None] = {}
    for name in named:
        registry = name.beginning.partition("/")[0]
        certain = name.beginning if name.whole else name.beginning.rpartition("/")[0]
        trouble = ""
        try:
            found = credentials.search(certain)
        except ConfigError as error:
            found, trouble = None, f"; {describe_problem(error)}"
        if found is not None:
            logins[registry, found[1]] = None
        elif not credentials.covering(name.beginning, whole=name.whole):
            advice = "set username and password, or anonymous: true"
            message = f"is missing or does not cover all of {name.key}; {advice}{trouble}"
            missing.setdefault(registry, message)
    return [Problem(join("auth", registry), message) for registry, message in missing.items()], list(logins)


def _unused(named: Iterable[NamedDestination], credentials: Credentials) -> list[Problem]:
    used = {name.beginning.partition("/")[0] for name in named}
    unused = [key for key in sorted(credentials.keys) if key.partition("/")[0] not in used]
    return [Problem(join("auth", key), "no rule names this registry") for key in unused]
