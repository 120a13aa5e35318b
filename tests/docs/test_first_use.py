"""A new user who follows the README gets what it promises."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.docs.pages import ROOT, blocks, commands
from tests.running import TOKEN, replicator, running
from tests.standins.acr import AcrStandIn
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.harbor import HarborStandIn

README = ROOT / "README.md"
SECRETS = {"HARBOR_PASSWORD": HARBOR_ROBOT[1], "ACR_PASSWORD": ACR_USER[1]}


def example(language: str, containing: str) -> str:
    (text,) = [block.text for block in blocks(language) if block.page == README and containing in block.text]
    return text


async def test_the_readme_from_its_rules_to_its_backfill(
    harbor: HarborStandIn, acr_upstream: str, tmp_path: Path
) -> None:
    namespaces = {"image-syncer": True, "team-mirror": True}
    async with AcrStandIn(acr_upstream, users=dict([ACR_USER]), namespaces=namespaces) as acr:
        text = example("yaml", "images:").replace("{username:", "{insecure: true, username:")
        text = text.replace("harbor.example.com", harbor.host).replace("registry.cn-beijing.aliyuncs.com", acr.host)
        (tmp_path / "rules.yaml").write_text(text)
        older, pushed = image(1), multi_arch(2)
        await push(harbor.host, "library/nginx", "1.26", older, HARBOR_ROBOT)

        async with running("serve", "--config", "rules.yaml", cwd=tmp_path, settings=SECRETS) as serving:
            register = commands(example("sh", "webhook register"))
            for call in [words[1:] for words in register if words]:
                arguments = [word.replace("http://replicator.example.com:8080", serving.url) for word in call]
                told = await replicator(
                    *arguments, cwd=tmp_path, settings={**SECRETS, "REPLICATOR_WEBHOOK_TOKEN": TOKEN},
                    stdin=f"{HARBOR_ADMIN[1]}\n",
                )  # fmt: skip
                assert told.code == 0, told.said
            await push(harbor.host, "team/app/api", "v1.5.0", pushed, HARBOR_ROBOT)
            await serving.until("copy done", destination=f"{acr.host}/team-mirror/team-app-api:v1.5.0")
        await verify_tree(acr_upstream, "team-mirror/team-app-api", "v1.5.0", pushed)

        for option in ("--dry-run", "--report=report.json"):
            ended = await replicator("backfill", "--config=rules.yaml", option, cwd=tmp_path, settings=SECRETS)
            assert ended.code == 0, ended.said
        rows = json.loads((tmp_path / "report.json").read_text())
        assert sorted(row["outcome"] for row in rows) == ["copied", "up to date"]
        await verify_tree(acr_upstream, "image-syncer/nginx", "1.26", older)
