"""``make fuzz``: a million damaged inputs for each parser, over several processes. See ``--help``."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from tests.fuzz.running import Run, run
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEMORY = 1 << 30
"""Bytes of address space for a process: an input that needs more is a finding."""
_PIECE = 5000


def _piece(name: str, seed: int, first: int, count: int) -> Run:
    return run(TARGETS[name], seed, range(first, first + count))


def _start() -> None:
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("error")


def _fuzz(pool: ProcessPoolExecutor, name: str, seed: int, first: int, count: int) -> bool:
    """Give a target its inputs, print what became of them, and return whether all is well."""
    began = time.monotonic()
    starts = range(first, first + count, _PIECE)
    pieces = [pool.submit(_piece, name, seed, start, min(_PIECE, first + count - start)) for start in starts]
    runs: list[Run] = []
    for piece in pieces:
        runs.append(piece.result())
        if any(done.findings for done in runs):
            for left in pieces:
                left.cancel()
            break
    inputs = sum(done.inputs for done in runs)
    understood = sum(done.taken for done in runs) / max(1, inputs)
    slowest, number = max(done.slowest for done in runs)
    seconds = time.monotonic() - began
    print(
        f"{name:<20} {inputs:>9} inputs in {seconds:6.0f} s, {understood:4.0%} understood, "
        f"slowest {slowest * 1000:.0f} ms (number {number})",
        flush=True,
    )
    findings = [finding for done in runs for finding in done.findings]
    for finding in findings[:3]:
        print(f"--- {name} --seed {seed} --first {finding.number} --count 1\n{finding.text[:2000]!a}\n{finding.what}")
    return not findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz what was asked for; 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without any")
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown or options.count < 1:
        parser.error(f"no such target: {', '.join(unknown)}" if unknown else "--count must be 1 or more")
    with ProcessPoolExecutor(options.processes, initializer=_start) as pool:
        well = [_fuzz(pool, name, options.seed, options.first, options.count) for name in options.targets or TARGETS]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"the largest process had {memory} MiB")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
