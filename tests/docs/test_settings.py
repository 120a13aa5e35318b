"""The documented settings are the program's settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from replicator.settings import PREFIX, Settings
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
