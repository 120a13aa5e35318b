"""Debian's skopeo, run against the stand-ins."""

from __future__ import annotations

import asyncio

PROGRAM = "/usr/bin/skopeo"
_SECONDS = 60.0


class SkopeoError(Exception):
    """Skopeo ended with an error; the message is what it wrote."""


async def skopeo(*arguments: str) -> bytes:
    """Run skopeo with no policy of this machine in its way and return what it wrote.

    Raises:
        SkopeoError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "--insecure-policy",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, problem = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise SkopeoError(problem.decode("utf-8", "replace").strip())
    return output


async def push_directory(directory: str, reference: str, credentials: tuple[str, str]) -> None:
    """Push ``dir:`` with all its manifests to ``host/repository:tag``, over whatever scheme the host speaks."""
    await skopeo(
        "copy",
        "--all",
        "--quiet",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        ":".join(credentials),
        f"dir:{directory}",
        f"docker://{reference}",
    )


async def inspect_raw(reference: str, credentials: tuple[str, str]) -> bytes:
    """Return a manifest's bytes as ``skopeo inspect --raw`` prints them."""
    return await skopeo(
        "inspect", "--raw", "--tls-verify=false", "--creds", ":".join(credentials), f"docker://{reference}"
    )
