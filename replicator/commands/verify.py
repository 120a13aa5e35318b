"""``replicator verify``: both sides compared, signed statements about that, and their check without a network."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from replicator.commands.options import (
    Attest,
    Auth,
    Config,
    Images,
    Json,
    Key,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    Only,
    RedisUrl,
    Registry,
    StateDir,
    rules_of,
    run,
    settings_of,
    signing_key,
)
from replicator.console import TextFile, document, say, stderr
from replicator.copy import Copier
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem, ReplicatorError
from replicator.registry import Registries
from replicator.replication.attestation import AS_WANTED, AttestationFile, Compared, Facts, State, check, is_whole
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.listing import Listing
from replicator.replication.report import Report, Row, RowOutcome, SortedRows
from replicator.replication.signing import open_verifying_key
from replicator.replication.transfer import access_by, open_registries
from replicator.replication.verification import Verification
from replicator.rules import Narrowing, Rules
from replicator.server.runtime import open_copier, open_queue
from replicator.settings import Settings
from replicator.tasks import cancel_all, graceful_shutdown

_MOST_KEPT = 1000
"""Rows that are printed; further ones are counted, and in the attestation."""
_LINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """The options of the command line.

    Attributes:
        settings: timeouts, and the queue whose memory is used if there is one.
        rules: the images to compare.
        narrowing: the part of the rules that is meant.
        deep: ask for every manifest and blob at the destinations.
        extra: look for tags without a rule or a source tag.
        attestation: takes all rows; None to sign nothing.
        extras: a list of the tags that are extra; None to write none.
        as_json: print the result as JSON.
    """

    settings: Settings
    rules: Rules
    narrowing: Narrowing
    deep: bool = False
    extra: bool = False
    attestation: AttestationFile | None = None
    extras: TextFile | None = None
    as_json: bool = False


def verify(
    context: typer.Context,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    only: Only = None,
    rule: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Only the rule with this key; repeatable.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also check every manifest and blob at the destinations.")
    ] = False,
    extra: Annotated[
        bool,
        typer.Option("--extra", help="Also find destination tags without a rule or a source tag."),
    ] = False,
    extras: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE", help="Write the tags of --extra to this file, e.g. to delete them by hand."
        ),
    ] = None,
    attest: Attest = None,
    key: Key = None,
    checked: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="FILE", help="Check a file of --attest instead. Works offline and without rules."
        ),
    ] = None,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Compare source and destination, and sign the result on request. Copies nothing.

    Exit code 0: all destinations are right; 1: one differs or could not be compared.
    """
    problems = _contradictions(
        {"--attest": attest, "--key": key, "--check": checked, "--list": extras},
        extra=extra,
        part=bool(only or rule),
        compares=deep or extra,
    )
    if problems:
        raise ConfigError("command line", problems)
    if checked is not None and key is not None:
        raise typer.Exit(check_file(checked, key, as_json=as_json))
    settings = settings_of(context, quiet=True)
    rules = rules_of(context, settings)
    attestation = None
    if attest is not None and key is not None:
        facts = Facts(rules.digest, "verify", tuple(only or ()), tuple(rule or ()), deep=deep, extra=extra)
        attestation = AttestationFile("--attest", attest, signing_key(key), facts)
    narrowing = Narrowing(rules, only or (), rule or ())
    listed = TextFile("--list", extras) if extras is not None else None
    run(run_verify(VerifyRequest(settings, rules, narrowing, deep, extra, attestation, listed, as_json)))


def _contradictions(given: dict[str, Path | None], *, extra: bool, part: bool, compares: bool) -> list[Problem]:
    """Find options that can't be combined."""
    problems = []
    signs, checks = given["--attest"] is not None, given["--check"] is not None
    if (signs or checks) and given["--key"] is None:
        why = "requires --key FILE: the signing key, created if the file is missing"
        problems.append(Problem("--attest", why) if signs else Problem("--check", "requires --key FILE: a public key"))
    if given["--key"] is not None and not (signs or checks):
        problems.append(Problem("--key", "requires --attest or --check"))
    if given["--list"] is not None and not extra:
        problems.append(Problem("--list", "requires --extra"))
    if extra and part:
        problems.append(
            Problem("--extra", "can't be combined with --only and --rule: their other tags would count as extra")
        )
    if checks and (signs or part or compares):
        problems.append(Problem("--check", "can't be combined with options of a comparison: it only reads the file"))
    return problems


def check_file(file: Path, key: Path, *, as_json: bool = False) -> int:
    """Check an attestation and print what it says.

    Returns:
        `OK` if it is genuine and says that both sides are equal, else `FAILED`.

    Raises:
        NotGenuine: it is not as it was signed.
        ConfigError: the key can't be read.
    """
    public = open_verifying_key(key)
    found = check(file, public)
    said = found.predicate
    if as_json:
        document({"genuine": True, "key": public.id, "statement": said}, Console())
        return OK if found.is_equal else FAILED
    say(f"{file} is genuine: {found.rows} rows, signed with the key {public.id[:16]}…")
    for name in ("started", "finished", "deep", "extra", "complete", "only", "keys"):
        if said.get(name) not in (None, False, []):
            value = said[name]
            say(
                f"{name}: {'yes' if value is True else ', '.join(value) if isinstance(value, list) else value}",
                indent=2,
            )
    counts = said.get("counts")
    for state, number in counts.items() if isinstance(counts, dict) else ():
        say(f"{state}: {number}", indent=2)
    say("Both sides were equal" if found.is_equal else "Both sides were not equal, or not all was compared")
    return OK if found.is_equal else FAILED


@dataclass(slots=True)
class _Findings:
    """The results that are printed at the end.

    Attributes:
        kept: the first rows that are not as the rules want them.
    """

    counts: Counter[State] = field(default_factory=Counter)
    kept: list[Compared] = field(default_factory=list)

    def add(self, row: Compared) -> None:
        self.counts[row.state] += 1
        if row.state not in AS_WANTED and len(self.kept) < _MOST_KEPT:
            self.kept.append(row)

    @property
    def wrong(self) -> int:
        return sum(number for state, number in self.counts.items() if state not in AS_WANTED)


async def run_verify(request: VerifyRequest) -> int:
    """Compare, look closer where that was asked for, and write the files.

    Returns:
        The exit code: `OK`, `FAILED` or `INTERRUPTED`; no file is written if it was interrupted.

    Raises:
        ConfigError: a file can't be written; nothing was started.
        ReplicatorError: a file could be written at the start, but not at the end.
    """
    for output in (request.attestation, request.extras):
        if output is not None:
            output.check()
    findings = _Findings()
    with contextlib.closing(SortedRows()) as extras:
        return await _verified(request, findings, extras)


async def _verified(request: VerifyRequest, findings: _Findings, extras: SortedRows) -> int:
    def take(row: Compared) -> None:
        findings.add(row)
        if request.attestation is not None:
            request.attestation.add(row)
        if row.state is State.EXTRA:
            extras.add(row.destination, "")

    began = time.monotonic()
    with graceful_shutdown():
        async with contextlib.AsyncExitStack() as stack:
            registries, copier = await stack.enter_async_context(_registries(request))
            listing = Listing(request.rules, registries, request.narrowing, copier)
            closer = stack.enter_context(contextlib.closing(Verification(registries, request.rules)))
            aside = request.deep or request.extra

            def on_row(row: Row) -> None:
                (closer.add if aside else take)(Compared.of(row))

            task = Backfill(listing, copier, None, options=BackfillOptions(reads=False), on_row=on_row)
            async with _progress(task.report, findings):
                report = await task.run()
                if aside:
                    await _look_closer(request, closer, listing, report, take)
        report.warnings[:0] = map(str, request.rules.warnings)
        whole = is_whole(report)
        if request.attestation is not None:
            request.attestation.facts.complete = whole
            request.attestation.end()
        if request.extras is not None:
            _write_extras(request.extras, extras, closer)
        _tell(request, findings, report, closer, time.monotonic() - began)
        return FAILED if findings.wrong or not whole else OK
    return INTERRUPTED


async def _look_closer(
    request: VerifyRequest, closer: Verification, listing: Listing, report: Report, take: Any
) -> None:
    async with contextlib.aclosing(closer.rows(deep=request.deep)) as rows:
        async for row in rows:
            take(row)
    if request.extra and report.counts[RowOutcome.NOT_LISTED]:
        # Tags of a source that could not be listed would count as extra, and a person might delete them.
        report.warnings.append("extra tags were not searched, because a source could not be listed")
    elif request.extra:
        async with contextlib.aclosing(closer.extras(listing.destinations)) as rows:
            async for row in rows:
                take(row)


@contextlib.asynccontextmanager
async def _registries(request: VerifyRequest) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open the registries; with the memory of the queue if there is one, so that no image is read again at Harbor."""
    settings, rules = request.settings, request.rules
    async with contextlib.AsyncExitStack() as stack:
        if settings.redis_url is not None or settings.state_dir.exists():
            try:
                queue = await stack.enter_async_context(open_queue(settings))
                opened = await stack.enter_async_context(open_copier(settings, rules, queue))
            except (ReplicatorError, OSError) as error:
                what = (
                    "images of rules with platforms or attestations are read at the source again, because the "
                    "queue's cache is not available"
                )
                say(f"{what}: {error}", stderr(), label="Warning:", style="yellow")
            else:
                yield opened
                return
        yield await stack.enter_async_context(open_registries(settings, access_by(rules.credentials)))


@contextlib.asynccontextmanager
async def _progress(report: Report, findings: _Findings) -> AsyncIterator[None]:
    """Print a line now and then for as long as the context lasts."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            closer = f", {sum(findings.counts.values())} checked in detail" if report.complete else ""
            say(f"{report.ended} of {report.listed} tags compared{closer}", stderr())

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        await cancel_all({task})


def _write_extras(file: TextFile, extras: SortedRows, closer: Verification) -> None:
    """Write a tag a line, and a repository alone where nothing in it is named."""
    for repository in closer.unnamed:
        extras.add(str(repository), "")
    for reference, _, _ in extras.read():
        file.write(f"{reference}\n")
    file.close()


def _tell(request: VerifyRequest, findings: _Findings, report: Report, closer: Verification, seconds: float) -> None:
    attestation = request.attestation
    if request.as_json:
        document(
            {
                "equal": not findings.wrong and report.complete,
                "complete": report.complete,
                "counts": {str(state): findings.counts[state] for state in State if findings.counts[state]},
                "rows": [row.to_json() for row in findings.kept],
                "unnamed_repositories": [str(each) for each in closer.unnamed],
                "warnings": report.warnings,
                "seconds": round(seconds, 3),
            },
            Console(),
        )
        return
    for row in findings.kept:
        where = " -> ".join(filter(None, (row.source, row.destination)))
        say(f"{where}{f': {row.note}' if row.note else ''}", label=f"{row.state}:", style="red")
    if (more := findings.wrong - len(findings.kept)) > 0:
        say(f"and {more} more: --attest writes them all")
    for warning in report.warnings:
        say(warning, label="Warning:", style="yellow")
    for state in State:
        if findings.counts[state]:
            say(f"{state}: {findings.counts[state]}")
    for repository in closer.unnamed:
        say(f"no rule copies any tag to {repository}")
    total = sum(findings.counts.values())
    ending = f"{findings.wrong} of {total} differ from the rules" if findings.wrong else "both sides are equal"
    say(f"Done in {seconds:.1f} s: {ending}")
    if attestation is not None:
        say(f"{attestation.file} is signed with the key {attestation.key.public.id[:16]}…")
