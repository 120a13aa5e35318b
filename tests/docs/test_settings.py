"""The documented settings are the program's settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from replicator.settings import PREFIX, Settings
from replicator.timetable import parse_bandwidth, parse_request_rates
from tests.docs.pages import EVERYTHING, name
from tests.docs.settings_table import PAGE, page

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = {PREFIX + setting.upper() for setting in Settings.model_fields} | {"REPLICATOR_SECRETS_DIR"}


def test_the_table_of_settings_is_current() -> None:
    assert PAGE.read_text() == page(), "renew it: make docs"


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_no_variable_is_named_that_is_no_setting(path: Path) -> None:
    named = set(re.findall(r"REPLICATOR_[A-Z_]*[A-Z]", path.read_text()))
    assert named <= KNOWN


def test_every_example_of_a_limit_is_one() -> None:
    parsers = {"BANDWIDTH": parse_bandwidth, "REQUESTS_PER_SECOND": parse_request_rates}
    lines = re.findall(r"^REPLICATOR_(BANDWIDTH|REQUESTS_PER_SECOND)=(.*)$", PAGE.read_text(), re.MULTILINE)
    assert {setting for setting, _ in lines} == set(parsers)
    for setting, text in lines:
        assert parsers[setting](text).hosts or not parsers[setting](text).general.is_unlimited
