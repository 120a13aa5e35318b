"""From answers to the text of the two files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from replicator.errors import ConfigError, Problem
from replicator.rules import parse

if TYPE_CHECKING:
    from replicator.starting.answers import Answers


def render_rules(answers: Answers) -> str:
    """Return the text of the rules file; the loader of the rules takes it.

    Raises:
        ConfigError: the loader would refuse it, e.g. because of a ``${`` in a user's name.
    """
    text = _environment().get_template("rules.yaml.j2").render(answers=answers, projects=_once(answers.projects))
    parse(text, "rules file", environ={"HARBOR_PASSWORD": "-", "ACR_PASSWORD": "-"})
    return text


def render_environment(token: str, harbor_password: str = "", acr_password: str = "") -> str:
    """Return the text of ``.env``.

    Args:
        token: what Harbor's webhook policy sends.
        harbor_password: the robot's secret; empty for a place to fill in.
        acr_password: the same of the other registry.

    Raises:
        ConfigError: a password has a control character in it, which can't be sent.
    """
    for name, value in (("HARBOR_PASSWORD", harbor_password), ("ACR_PASSWORD", acr_password)):
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise ConfigError("command line", [Problem(name, "holds a control character, which can't be sent")])
    template = _environment().get_template("env.j2")
    return template.render(token=token, harbor_password=harbor_password, acr_password=acr_password)


def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - the result is YAML and .env, quoted by the filters; never HTML
        loader=PackageLoader("replicator.starting"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["scalar"] = _scalar
    environment.filters["quoted"] = _quoted
    return environment


def _scalar(text: str) -> str:
    """Quote a text for YAML, on one line."""
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).rstrip("\n")


def _quoted(text: str) -> str:
    """Quote a text for ``.env``: between single quotes only the backslash and the quote have a meaning."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _once(projects: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(projects))
