"""A process that uses the embedded server of a directory: ``python -m tests.queue.embedded_user DIRECTORY``.

It prints its URL, then enqueues a job for every line it reads and answers ``ok``; at the end of its input it stops.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from replicator.queue import Job, Lane, Queue, embedded_server


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with embedded_server(Path(sys.argv[1])) as url, await Queue.connect(url) as queue:
        print("URL", url, flush=True)
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            await queue.enqueue([Job(line, {})], Lane.EVENTS)
            print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
