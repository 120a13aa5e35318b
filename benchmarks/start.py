"""The start of the program: the CPU time of small commands, and of a copy until its first request."""

from __future__ import annotations

import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from benchmarks.measuring import RunFailed

_HERE = Path(__file__).parent.parent
_PROGRAM = (sys.executable, "-m", "replicator")
_ABSENT = "127.0.0.1:1"
"""Nobody listens there."""
_RULES = """{"auth": {"h.example.com": {"anonymous": true}}, "images": {"h.example.com/a/b": "h.example.com/c/d"}}"""
_COMMANDS = {
    "python -c 'import typer'": (sys.executable, "-c", "import typer"),
    "replicator --version": (*_PROGRAM, "--version"),
    "replicator --help": (*_PROGRAM, "--help"),
    "replicator health": (*_PROGRAM, "health", "--listen", _ABSENT),
    "replicator explain": (*_PROGRAM, "explain", "h.example.com/a/b:1", "--config", "rules.json"),
    "replicator failures, without a queue": (*_PROGRAM, "failures", "--state-dir", "absent"),
}
_COPY = "replicator copy, until its first request"
_SECONDS = 60


def measure(runs: int, other: Path | None = None) -> Table:
    """Measure every command, in rounds, and make a table of the medians.

    Args:
        runs: rounds.
        other: a worktree of another commit, which takes turns with this one.

    Raises:
        RunFailed: a copy sent no request.
    """
    trees = [_HERE] if other is None else [_HERE, other]
    figures: dict[tuple[str, Path], list[float]] = {}
    with TemporaryDirectory() as folder:
        (Path(folder) / "rules.json").write_text(_RULES)
        for _ in range(runs):
            for tree in trees:
                for name, command in _COMMANDS.items():
                    figures.setdefault((name, tree), []).append(_cpu(command, tree, folder))
                figures.setdefault((_COPY, tree), []).append(_cpu_until_request(tree, folder))
    table = Table(title="start, CPU seconds", title_justify="left")
    table.add_column("command")
    for tree in trees:
        table.add_column("here" if tree is _HERE else str(tree), justify="right")
    if other is not None:
        table.add_column("ratio", justify="right")
    for name in (*_COMMANDS, _COPY):
        medians = [statistics.median(figures[name, tree]) for tree in trees]
        ratio = [f"{medians[0] / medians[1]:.2f}"] if other is not None else []
        table.add_row(name, *(f"{median:.3f}" for median in medians), *ratio)
    return table


def _cpu(command: tuple[str, ...], tree: Path, folder: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=_environment(tree), capture_output=True, timeout=_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cpu_until_request(tree: Path, folder: str) -> float:
    """Stop a copy at its first connection, and read what its threads have used (proc(5), schedstat)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_SECONDS)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            [*_PROGRAM, "copy", f"{host}/a/b:1", f"{host}/c/d:1"],
            cwd=folder,
            env=_environment(tree),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = server.accept()
            process.send_signal(signal.SIGSTOP)
            connection.close()
            threads = Path(f"/proc/{process.pid}/task").iterdir()
            return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
        except TimeoutError:
            raise RunFailed("the copy sent no request") from None
        finally:
            process.kill()
            process.wait()


def _environment(tree: Path) -> dict[str, str]:
    # The installed package is this tree or none at all: the path decides for both.
    return {**os.environ, "PYTHONPATH": str(tree)}
