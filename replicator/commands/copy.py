"""``replicator copy``: one image, in the foreground; the queue is informed if there is one."""

# Annotations are evaluated at once, here and in the other modules of commands: typer reads them when it runs.
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from replicator.aliyun.acr import OTHER_NAME, automatic_attestations, name_problem, with_edition
from replicator.commands.options import (
    Auth,
    Config,
    Json,
    Log,
    LogFormat,
    LogLevel,
    parse_platforms,
    parse_reference,
    run,
    settings_of,
)
from replicator.console import age, say, stderr
from replicator.copy.context import Outcome, Result
from replicator.copy.options import VERBATIM, Attestations, CopyOptions, Overwrite
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, ErrorClass, ErrorText, Problem, ReplicatorError
from replicator.reference import Reference, Repository
from replicator.registry.credentials import Access
from replicator.registry.docker_logins import docker_logins
from replicator.registry.errors import RegistryError
from replicator.replication.transfer import OUTAGE_SECONDS, CopyFailed, access_by, open_registries, outlast, transfer
from replicator.retry import ends_on_standstill
from replicator.rules.request import CopyRequest
from replicator.settings import Settings, variables
from replicator.tasks import stoppable

if TYPE_CHECKING:
    from replicator.queue import CauseWatch, Observations


def copy(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Image to copy: registry/repository:tag, or @digest.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="Where to copy it: registry/repository:tag.")
    ],
    config: Config = None,
    auth: Auth = None,
    insecure: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Registry with an unverified TLS certificate, or plain HTTP; repeatable."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(metavar="OS/ARCH", help="Copy only this platform, e.g. linux/arm64/v8; repeatable."),
    ] = None,
    attestations: Annotated[
        Literal["keep", "strip", "fail"] | None,
        typer.Option(
            metavar="HANDLING",
            help="BuildKit's attestations: keep, strip or fail. Default: keep, but strip those that ACR refuses.",
        ),
    ] = None,
    signatures: Annotated[
        bool, typer.Option("--signatures", help="Also copy signatures, and other artifacts that refer to the image.")
    ] = False,
    overwrite: Annotated[
        Literal["always", "never"],
        typer.Option(metavar="WHEN", help="Replace an existing tag that points to another image: always or never."),
    ] = "always",
    as_json: Json = False,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy one image now, with the logins of the rules file, or without one with Docker's logins."""
    settings = settings_of(context, quiet=True)
    target = parse_reference(destination, "DESTINATION")
    run(
        copy_one(
            settings,
            insecurely(access_of(settings), insecure or ()),
            parse_reference(source, "SOURCE"),
            target,
            copy_options(target, platform, attestations, signatures),
            overwrite=Overwrite(overwrite),
            automatic=attestations is None and target.digest is None,
            as_json=as_json,
        )
    )


async def copy_one(
    settings: Settings,
    access: Callable[[Repository], Access],
    source: Reference,
    destination: Reference,
    options: CopyOptions = VERBATIM,
    *,
    overwrite: Overwrite = Overwrite.ALWAYS,
    automatic: bool = False,
    as_json: bool = False,
) -> int:
    """Copy one image and print the outcome.

    Args:
        settings: timeouts.
        access: how each registry is reached, and with which login.
        source: the image.
        destination: where it goes.
        options: the parts of it that are copied.
        overwrite: which images may be replaced.
        automatic: the destination decides about attestations, as soon as it is known what it is.
        as_json: print `Outcome.to_json`.

    Returns:
        The exit code: `OK`, `FAILED` if the image was skipped, or `INTERRUPTED`.

    Raises:
        ReplicatorError: the copy failed, or ACR can't hold the destination.
    """
    if problem := name_problem(destination.repository):
        raise CopyFailed(ErrorText(problem, do=OTHER_NAME), ErrorClass.PERMANENT)
    request = CopyRequest(source, destination, rule="", options=options, overwrite=overwrite)
    async with open_registries(settings, access) as (_, copier), _installation(settings, request) as told:

        def asked() -> CopyRequest:
            known = automatic_attestations(destination.registry) if automatic else options.attestations
            return dataclasses.replace(request, options=dataclasses.replace(options, attestations=known))

        async def attempt() -> Outcome:
            return await with_edition(asked, lambda now: transfer(copier, now, confirm=told.writes))

        async with ends_on_standstill(settings.copy_timeout):
            outcome = await stoppable(outlast(attempt, _say_waiting))
        if outcome is None:
            return INTERRUPTED
        if outcome.result is not Result.SKIPPED:
            await told.is_right()
    if as_json:
        print(json.dumps(outcome.to_json(), indent=2, ensure_ascii=False))  # noqa: T201 - the answer, without rich
        return FAILED if outcome.result is Result.SKIPPED else OK
    say(_sentence(outcome))
    for warning in outcome.warnings:
        say(warning, label="Warning:", style="yellow")
    return FAILED if outcome.result is Result.SKIPPED else OK


class _Installation:
    """Informs the installation on this machine, or on the Redis of the settings, of a copy; idle without one."""

    def __init__(self, request: CopyRequest, watch: "CauseWatch | None", checks: "Observations | None") -> None:
        self._source, self._destination = str(request.source), str(request.destination)
        self._watch = watch
        self._checks = checks

    async def writes(self) -> None:
        """Take back what is remembered of the destination, right before it is written."""
        if self._checks is not None and not await self._checks.void(self._destination):
            _say_unheard("its Redis does not answer")

    async def is_right(self) -> None:
        """End the dead letter of this copy: its cause is over."""
        if self._watch is not None:
            self._watch.over(self._destination, self._source)
            await self._watch.end()


@asynccontextmanager
async def _installation(settings: Settings, request: CopyRequest) -> AsyncIterator[_Installation]:
    """Open the queue, if there is one: it is not made for a copy, and a copy does not fail for want of it."""
    try:
        is_there = settings.redis_url is not None or settings.state_dir.exists()
    except OSError:
        is_there = False
    if not is_there:
        yield _Installation(request, None, None)
        return
    # Imported here: most copies have no queue beside them.
    from replicator.queue import CauseWatch, DeadLetter, Observations
    from replicator.server.runtime import open_queue

    def is_same(letter: DeadLetter) -> bool:
        with suppress(ValueError):
            given_up = CopyRequest.from_json(letter.payload)
            return (given_up.source, given_up.options) == (request.source, request.options)
        return False

    async with AsyncExitStack() as stack:
        watch, checks = None, None
        try:
            queue = await stack.enter_async_context(open_queue(settings))
            watch, checks = CauseWatch(queue), await stack.enter_async_context(aclosing(Observations(queue)))
            await watch.look([str(request.destination)], only=is_same)
        except (ReplicatorError, OSError) as error:
            _say_unheard(str(error))
        yield _Installation(request, watch, checks)


def _say_unheard(why: str) -> None:
    what = f"a backfill with --fast may miss this copy, because the queue was not informed: {why}"
    say(what, stderr(), label="Warning:", style="yellow")


def copy_options(
    destination: Reference, platforms: Iterable[str] | None, attestations: str | None, signatures: bool
) -> CopyOptions:
    """Return what ``--platform``, ``--attestations`` and ``--signatures`` ask for.

    Args:
        destination: its registry decides about attestations without the option. A digest forbids any change.
        platforms: the option's texts.
        attestations: the option's word; None without it.
        signatures: whether signatures are copied too.

    Raises:
        ConfigError: a text is no platform, or an option would change the bytes under a digest.
    """
    chosen = parse_platforms("--platform", platforms)
    choice = Attestations(attestations) if attestations is not None else automatic_attestations(destination.registry)
    options = CopyOptions(chosen, choice, signatures or None)
    if destination.digest is None:
        return options
    if options.platforms or choice is Attestations.STRIP:
        option = "--platform" if options.platforms else "--attestations"
        message = "changes the image's digest, but DESTINATION is a digest: use a tag instead"
        raise ConfigError("command line", [Problem(option, message)])
    return options if attestations is not None else CopyOptions((), Attestations.KEEP, signatures or None)


def access_of(settings: Settings) -> Callable[[Repository], Access]:
    """Return the logins of a foreground copy: those of the rules, else Docker's, else none.

    Raises:
        ConfigError: the rules or Docker's file can't be used.
    """
    logins = docker_logins(settings.docker_config)
    if settings.config is not None or settings.auth is not None:
        from replicator.rules import load_credentials

        credentials = load_credentials(settings.config, auth=settings.auth, environ=variables(), elsewhere=logins)
        return access_by(credentials.find)

    def access(repository: Repository) -> Access:
        found = logins.find(f"{repository.registry.lower()}/{repository.name}")
        return found[0] if found is not None else Access()

    return access


def insecurely(access: Callable[[Repository], Access], hosts: Collection[str]) -> Callable[[Repository], Access]:
    """Return the same logins, without verified TLS at some hosts."""

    def find(repository: Repository) -> Access:
        found = access(repository)
        return dataclasses.replace(found, insecure=True) if repository.registry in hosts else found

    return find


def _say_waiting(error: RegistryError) -> None:
    patience = f"retrying for up to {age(OUTAGE_SECONDS)}"
    say(f"for {error.registry} ({error.why}); {patience}", stderr(), label="Waiting", style="yellow")


def _sentence(outcome: Outcome) -> str:
    if outcome.result is Result.SKIPPED:
        return f"skipped: {outcome.source}: {outcome.note}"
    signatures = f"; signatures: {outcome.signatures}" if outcome.signatures else ""
    signatures += f"; replaced: {outcome.replaced}" if outcome.replaced else ""
    more = f"{signatures}{outcome.note and f'; {outcome.note}'}"
    if outcome.result is Result.UP_TO_DATE:
        return f"up to date: {outcome.destination} is {outcome.digest}{more}"
    from rich.filesize import decimal

    return (
        f"copied {outcome.source} to {outcome.destination}: {outcome.digest}, "
        f"{decimal(outcome.bytes)} in {outcome.seconds:.1f} s; blobs: {outcome.blobs_copied} sent, "
        f"{outcome.blobs_mounted} mounted, {outcome.blobs_present} already there; manifests: {outcome.manifests}{more}"
    )
