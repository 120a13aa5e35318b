from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn

PUBLIC_NAME = "registry.cn-beijing.aliyuncs.com"
"""A name by which a registry is known to be an ACR."""


def report(file: Path) -> dict[str, dict[str, Any]]:
    """The report's rows by source tag."""
    return {row["source"].rpartition(":")[2]: row for row in json.loads(file.read_text())}


@dataclass
class House:
    """A Harbor, an ACR, and a directory with a rules file between them."""

    harbor: HarborStandIn
    acr: AcrStandIn
    behind_harbor: str
    behind_acr: str
    directory: Path

    def auth(self) -> dict[str, Any]:
        return {
            self.harbor.host: {"username": HARBOR_ROBOT[0], "password": HARBOR_ROBOT[1], "insecure": True},
            self.acr.host: {"username": ACR_USER[0], "password": ACR_USER[1], "insecure": True},
        }

    def rules(self, images: dict[str, Any], **more: Any) -> Path:
        """Write a rules file with everyone's logins.

        ``HARBOR`` and ``ACR`` in it stand for the hosts, ``ALIYUN`` for the same ACR by its public name.
        """
        auth = self.auth()
        if "ALIYUN" in str(images):
            auth[PUBLIC_NAME] = {**auth.pop(self.acr.host), "endpoint": f"http://{self.acr.host}"}
        text = json.dumps({"auth": auth, "images": images, **more}, indent=1)
        file = self.directory / "rules.json"
        names = {"HARBOR": self.harbor.host, "ACR": self.acr.host, "ALIYUN": PUBLIC_NAME}
        for name, host in names.items():
            text = text.replace(name, host)
        file.write_text(text)
        return file


@pytest.fixture
def house(harbor: HarborStandIn, acr: AcrStandIn, harbor_upstream: str, acr_upstream: str, tmp_path: Path) -> House:
    return House(harbor, acr, harbor_upstream, acr_upstream, tmp_path)
