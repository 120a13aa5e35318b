"""Builders of rules for tests, with short defaults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from replicator.errors import ConfigError, Problem
from replicator.reference import Reference
from replicator.rules import Rules, parse

HARBOR = "harbor.example.com"
ACR = "registry.cn-beijing.aliyuncs.com"
PLAIN = "registry.example.com"
AUTH = {host: {"anonymous": True} for host in (HARBOR, ACR, PLAIN)}
DEFAULTS = {"registry": ACR, "namespace": "mirror"}


def text_of(images: Any, **sections: Any) -> str:
    return json.dumps({"auth": AUTH, "defaults": DEFAULTS, "images": images} | sections)


def rules_of(images: Any, **sections: Any) -> Rules:
    return parse(text_of(images, **sections), "rules.json", environ={})


def problems_of(images: Any, **sections: Any) -> tuple[Problem, ...]:
    return problems_in(text_of(images, **sections))


def problems_in(text: str, **options: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "rules.json", **({"environ": {}} | options))
    return caught.value.problems


def message_of(images: Any, **sections: Any) -> str:
    """The only problem."""
    (problem,) = problems_of(images, **sections)
    return str(problem)


def goes_to(rules: Rules, reference: str) -> set[str]:
    return {str(request.destination) for request in rules.destinations(Reference.parse(reference))}


def error_in(text: str, **options: Any) -> ConfigError | None:
    """The error of the text, or None if it is valid."""
    try:
        parse(text, "rules.json", **({"environ": {}} | options))
    except ConfigError as error:
        return error
    return None
