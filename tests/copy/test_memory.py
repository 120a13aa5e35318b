"""The memory of a copy does not grow with the image."""

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


@pytest.mark.scale
async def test_an_image_of_300_megabytes_is_copied_in_120() -> None:
    root = image(1, (120 * MB, 100 * MB, 60 * MB, 20 * MB))
    scratch = Path(tempfile.mkdtemp(prefix="copy-memory-"))
    try:
        async with distribution(scratch / "source") as source, distribution(scratch / "destination") as destination:
            await push(source, "team/app", "v1", root)
            for loop in ("uvloop", "asyncio"):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.copy.one_copy"),
                    *(f"{source}/team/app:v1", f"{destination}/{loop}/app:v1", loop),
                    stdout=asyncio.subprocess.PIPE,
                )
                said, _ = await process.communicate()
                assert process.returncode == 0
                sent, peak = map(int, said.split())
                assert sent == sum(blob.size for blob in blobs_of(root))
                assert peak < 120 * MB, f"{loop}: {peak / MB:.0f} MB"
            await verify_tree(destination, "uvloop/app", "v1", root)
    finally:
        # At once, since it is too large for pytest to keep.
        shutil.rmtree(scratch)
