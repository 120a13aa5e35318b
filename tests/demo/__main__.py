"""``make demo``: a push to a Harbor appears at an ACR, and a backfill copies the rest.

Harbor and ACR are stand-ins in front of real registries, the ones of the test suite; the replicator is the real one,
run as you would run it. Nothing outside this machine is contacted, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from tests.running import PROGRAM, TOKEN, Serving, environment, running
from tests.standins.acr import AcrStandIn
from tests.standins.distribution import distribution
from tests.standins.harbor import HarborStandIn
from tests.standins.images import fetch_raw, image, layer, multi_arch, push

HARBOR_LOGIN = ("robot$replicator", "demo-harbor-secret")
ACR_LOGIN = ("acr_pusher@1938562138124787", "demo-acr-secret")
OLDER_TAGS = ("1.24", "1.25", "1.26")

console = Console(highlight=False, soft_wrap=True)


def step(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def write_rules(directory: Path, harbor: HarborStandIn, acr: AcrStandIn) -> Path:
    """Write the rules file that a user would write."""
    rules = directory / "rules.yaml"
    rules.write_text(
        f"""auth:
  {harbor.host}: {{username: "{HARBOR_LOGIN[0]}", password: "${{HARBOR_PASSWORD}}", insecure: true}}
  {acr.host}: {{username: "{ACR_LOGIN[0]}", password: "${{ACR_PASSWORD}}", insecure: true}}
images:
  {harbor.host}/library/**: {acr.host}/image-syncer/{{name}}
"""
    )
    return rules


async def show_push(harbor: HarborStandIn, acr: AcrStandIn, behind_acr: str, serving: Serving) -> None:
    """Push an image to Harbor and watch it arrive."""
    pushed = multi_arch(seed=1, size=2_000_000)
    await push(harbor.host, "library/nginx", "1.27", pushed, HARBOR_LOGIN)
    since = time.monotonic()
    console.print(f"pushed to   {harbor.host}/library/nginx:1.27  {pushed.digest}")
    (line,) = await serving.until("copy done", destination=f"{acr.host}/image-syncer/nginx:1.27")
    seconds = time.monotonic() - since
    await harbor.deliveries_settled()
    console.print("Harbor sends an event for each platform, which is ignored, and one for the tag, which is copied:")
    for delivery in harbor.deliveries:
        console.print(f"webhook     answer {delivery.status}: {delivery.body}")
        assert delivery.succeeded, delivery
    content, media_type = await fetch_raw(behind_acr, "image-syncer/nginx", "1.27")
    assert content == pushed.content, "the destination has other bytes than the pushed ones"
    console.print(f"arrived at  {line['destination']}  {line['digest']}")
    console.print(
        f"            {seconds:.2f} s after the push; {line['blobs_copied']} blobs, {line['bytes']:,} bytes, "
        f"{line['manifests']} manifests; {media_type}, same bytes"
    )


async def backfill(rules: Path, directory: Path, secrets: dict[str, str]) -> None:
    """Run the command a person would, with its output as they would see it."""
    report = directory / "report.json"
    console.print(f"$ replicator backfill --config {rules.name} --report {report.name}")
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        "backfill",
        "--config",
        rules,
        "--report",
        report,
        cwd=directory,
        env=environment(REPLICATOR_STATE_DIR=str(directory / "state"), **secrets),
    )
    async with asyncio.timeout(120):
        code = await process.wait()
    assert code == 0, f"backfill ended with exit code {code}"
    outcomes = sorted(row["outcome"] for row in json.loads(report.read_text()))
    assert outcomes == ["copied"] * len(OLDER_TAGS) + ["up to date"], outcomes


async def demo() -> None:
    """Run the whole thing; whatever goes wrong, all processes are stopped."""
    secrets = {"HARBOR_PASSWORD": HARBOR_LOGIN[1], "ACR_PASSWORD": ACR_LOGIN[1]}
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-demo-")))
        step("Two local registries: one plays Harbor, the other plays ACR")
        behind_harbor = await stack.enter_async_context(distribution())
        behind_acr = await stack.enter_async_context(distribution())
        harbor = await stack.enter_async_context(
            HarborStandIn(behind_harbor, users=dict([HARBOR_LOGIN]), projects={"library": False})
        )
        acr = await stack.enter_async_context(
            AcrStandIn(behind_acr, users=dict([ACR_LOGIN]), namespaces={"image-syncer": True})
        )
        console.print(f"Harbor      {harbor.host}\nACR         {acr.host}")
        rules = write_rules(directory, harbor, acr)
        console.print(f"rules       {rules.name}:")
        console.print(rules.read_text(), style="dim", markup=False)

        base = [layer(100, 500_000)]
        for number, tag in enumerate(OLDER_TAGS):
            older = image(101 + number, (100_000,), base=base)
            await push(harbor.host, "library/nginx", tag, older, HARBOR_LOGIN)
        console.print(f"older tags  library/nginx: {', '.join(OLDER_TAGS)}. Harbor sends no webhook for them.")

        step("replicator with its embedded queue")
        console.print(f"$ replicator serve --config {rules.name}")
        serving = await stack.enter_async_context(
            running("serve", "--config", rules, cwd=directory, settings=secrets, program=PROGRAM)
        )
        address = f"{serving.url}/webhooks/harbor"
        console.print(f"listening   {address}")
        harbor.add_policy("library", address, auth_header=f"Bearer {TOKEN}", payload_format="CloudEvents")

        step("A push to Harbor")
        await show_push(harbor, acr, behind_acr, serving)

        step("A backfill copies the older tags")
        await backfill(rules, directory, secrets)

        step("The end")
        code = await serving.stop()
        assert code == 0, f"serve ended with exit code {code}"
        assert not harbor.leaks
        assert not acr.leaks
        console.print("replicator serve finished its copies and ended with exit code 0.")
    console.print("All programs of the demo are stopped, and its files are removed.")
    console.print("Next: the quick start in README.md, with your Harbor and your ACR.")


def main() -> None:
    """Run the demo, with an exit code that says whether all of it was true."""
    asyncio.run(demo())


if __name__ == "__main__":
    main()
