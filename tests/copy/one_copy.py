"""Copy one image and print the peak of resident memory: ``one_copy.py SOURCE DESTINATION uvloop|asyncio``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from replicator.copy import Copier
from replicator.reference import Reference
from replicator.registry import Access, Registries


async def main(source: str, destination: str) -> None:
    async with Registries(lambda repository: Access(endpoint=f"http://{repository.registry}")) as registries:
        outcome = await Copier(registries).copy(Reference.parse(source), Reference.parse(destination))
    print(outcome.bytes, peak())


def peak() -> int:
    """Return the peak memory of this program in bytes (proc(5)); ``ru_maxrss`` includes the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    run = uvloop.run if sys.argv[3] == "uvloop" else asyncio.run
    run(main(sys.argv[1], sys.argv[2]))
