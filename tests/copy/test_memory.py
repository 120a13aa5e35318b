"""What a copy takes does not grow with the image."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.standins.distribution import distribution
from tests.standins.images import blobs_of, image, push, verify_tree

MB = 1_000_000


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_an_image_of_300_megabytes_is_copied_in_120(loop: str) -> None:
    root = image(1, (120 * MB, 100 * MB, 60 * MB, 20 * MB))
    scratch = Path(tempfile.mkdtemp(prefix="copy-memory-"))
    try:
        async with distribution(scratch / "source") as source, distribution(scratch / "destination") as destination:
            await push(source, "team/app", "v1", root)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.copy.one_copy"),
                *(f"{source}/team/app:v1", f"{destination}/team/app:v1", loop),
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await process.communicate()
            assert process.returncode == 0
            await verify_tree(destination, "team/app", "v1", root)
    finally:
        # At once, not with the last runs of pytest: it is large.
        shutil.rmtree(scratch)
    sent, peak = map(int, said.split())
    assert sent == sum(blob.size for blob in blobs_of(root))
    assert peak < 120 * MB, f"{peak / MB:.0f} MB"
