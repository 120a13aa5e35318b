"""``replicator wait``: wait until the destinations have the source's current image, for pipelines."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from replicator.commands.options import (
    Auth,
    Config,
    Images,
    Json,
    Log,
    LogFormat,
    LogLevel,
    Namespace,
    Registry,
    parse_reference,
    rules_of,
    run,
    settings_of,
)
from replicator.console import document, say, short, stderr
from replicator.errors import FAILED as REFUSED
from replicator.errors import INTERRUPTED, NO_RULE, TIMED_OUT, ConfigError, ErrorClass, ErrorText, Problem
from replicator.errors import OK as IN_PLACE
from replicator.reference import Reference, full_name
from replicator.replication.transfer import access_by, open_registries
from replicator.retry import backoff
from replicator.rules import Rules
from replicator.schedule import parse_duration
from replicator.server.api.client import Ask, NeverAnswered, NoAnswerYet, open_client
from replicator.server.api.errors import ApiError
from replicator.server.api.images import Images as StatesOfImages
from replicator.server.api.models import Image, ImageAtDestination, State, to_json
from replicator.settings import Settings
from replicator.tasks import cancel_all, stoppable

MOST_REFERENCES = 100
"""References of one call."""
ASKED_AT_ONCE = 4
"""Questions of one call at a time."""
FORMER_SECONDS = 20.0
"""A failure from before the call counts after so long: the event of a new push may be on its way."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 5.0
_LONGEST_RETRY_AFTER = 60.0


class Verdict(StrEnum):
    """How waiting for an image ended."""

    IN_PLACE = "in_place"
    REFUSED = "refused"
    NO_RULE = "no_rule"
    TIMED_OUT = "timed_out"
    NOT_AWAITED = "not_awaited"
    """Another image ended the call before."""


_CODES = {Verdict.REFUSED: REFUSED, Verdict.NO_RULE: NO_RULE, Verdict.TIMED_OUT: TIMED_OUT}
"""Exit codes; the first of these that an image has is that of the call."""
_FATAL = frozenset({Verdict.REFUSED, Verdict.NO_RULE})


@dataclass(slots=True)
class Awaited:
    """An image that is awaited.

    Attributes:
        image: the last answer; None before the first.
        trouble: why the last question has no answer; None if it has.
        verdict: how it ended.
    """

    source: Reference
    image: Image | None = None
    trouble: ErrorText | None = None
    verdict: Verdict = Verdict.NOT_AWAITED
    former: dict[str, datetime] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; ``image`` is that of the API."""
        return {
            "reference": str(self.source),
            "result": str(self.verdict),
            "image": None if self.image is None else to_json(self.image),
            "trouble": None if self.trouble is None else self.trouble.to_json(),
        }


def wait(
    context: typer.Context,
    references: Annotated[
        list[str], typer.Argument(metavar="REFERENCE...", help="Images at the source: registry/repository:tag.")
    ],
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Maximum time; 0s checks once.")] = "10m",
    destination: Annotated[
        str | None, typer.Option(metavar="REFERENCE", help="Wait for this destination only, of one REFERENCE.")
    ] = None,
    api_url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="URL of a running serve (REPLICATOR_API_URL); its token is in REPLICATOR_API_TOKEN. Default: ask the "
            "registries, with the rules file.",
        ),
    ] = None,
    as_json: Json = False,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Wait until an image has arrived at all its destinations, e.g. in a pipeline.

    Exit code 0: arrived; 1: a copy was refused (with the reason); 3: timeout; 4: no rule copies the image.
    """
    settings = settings_of(context, quiet=True)
    try:
        seconds = 0.0 if timeout.strip() == "0" else parse_duration(timeout).total_seconds()
    except ValueError as error:
        raise ConfigError("command line", [Problem("--timeout", str(error))]) from None
    if len(references) > MOST_REFERENCES:
        raise ConfigError("command line", [Problem("REFERENCE", f"are more than {MOST_REFERENCES} images")])
    if destination is not None and len(references) > 1:
        raise ConfigError("command line", [Problem("--destination", "is for one REFERENCE")])
    sources = [parse_reference(full_name(each), "REFERENCE") for each in references]
    target = None if destination is None else str(parse_reference(destination, "--destination"))
    rules = None if settings.api_url is not None else rules_of(context, settings)
    waiting = wait_for([Awaited(each) for each in sources], settings, rules, target, seconds=seconds, as_json=as_json)
    run(waiting)


async def wait_for(
    images: Sequence[Awaited],
    settings: Settings,
    rules: Rules | None,
    destination: str | None,
    *,
    seconds: float,
    as_json: bool = False,
) -> int:
    """Wait for images, and print the result.

    Args:
        images: the images to wait for.
        settings: where `serve` is, and its token.
        rules: to ask the registries instead; None to ask `serve`.
        destination: only this one; None for all that the rules name.
        seconds: for how long; one last question is asked when they are over.
        as_json: print JSON.

    Raises:
        ConfigError: `serve` refuses the token, or its address leads elsewhere.
    """
    began = time.monotonic()
    opened = open_client(settings, destination) if rules is None else _registries(settings, rules, destination)
    async with opened as ask:
        code = await stoppable(_wait(images, ask, began + seconds))
    if code is None:
        return INTERRUPTED
    if as_json:
        result = next((verdict for verdict, number in _CODES.items() if number == code), Verdict.IN_PLACE)
        told = {"result": str(result), "seconds": round(time.monotonic() - began, 3)}
        document(told | {"images": [each.to_json() for each in images]}, Console())
    else:
        for each in images:
            _tell(each)
    return code


async def _wait(images: Sequence[Awaited], ask: Ask, ends: float) -> int:
    """Wait for all images, or the first that will not arrive; return the exit code."""
    turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def in_turn(source: Reference, fresh: bool) -> Image:
        async with turns:
            return await ask(source, fresh)

    tasks = {asyncio.create_task(_wait_for_one(each, in_turn, ends)) for each in images}
    left = tasks
    try:
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() in _FATAL for task in done):
                break
    finally:
        await cancel_all(tasks)
    return next((code for verdict, code in _CODES.items() if any(each.verdict is verdict for each in images)), IN_PLACE)


async def _wait_for_one(awaited: Awaited, ask: Ask, ends: float) -> Verdict:
    attempt, fresh, said, began = 0, True, "", time.monotonic()
    while True:
        attempt += 1
        last, retry_after = time.monotonic() >= ends, 0.0
        fresh = fresh or last
        try:
            awaited.image, awaited.trouble = await ask(awaited.source, fresh), None
        except NoAnswerYet as error:
            awaited.trouble, retry_after = error.text, error.retry_after or 0.0
            if isinstance(error, NeverAnswered):
                awaited.verdict = Verdict.REFUSED
                return awaited.verdict
        if awaited.trouble is None and awaited.image is not None:
            hasty = not last and time.monotonic() - began < FORMER_SECONDS
            verdict = _verdict(awaited, first=attempt == 1, hasty=hasty)
            if verdict is Verdict.IN_PLACE and not fresh:
                # Memory may not know of a newer push.
                fresh = True
                continue
            if verdict is not None:
                awaited.verdict = verdict
                return verdict
        if last:
            awaited.verdict = Verdict.TIMED_OUT
            return awaited.verdict
        # A question without an answer is asked again as it was.
        fresh = fresh and awaited.trouble is not None
        words = _progress(awaited)
        if words != said:
            say(f"{awaited.source}: {words}", stderr())
            said = words
        pause = max(backoff(attempt, base=_FIRST_PAUSE, cap=_LONGEST_PAUSE), min(retry_after, _LONGEST_RETRY_AFTER))
        await asyncio.sleep(max(0.0, min(pause, ends - time.monotonic())))


def _verdict(awaited: Awaited, *, first: bool, hasty: bool) -> Verdict | None:
    """Judge an answer; None to go on waiting.

    Args:
        awaited: with the answer.
        first: whether it is the first one.
        hasty: whether a failure that is older than the call may be that of an older push.
    """
    image = awaited.image
    assert image is not None  # noqa: S101 - see the caller
    if image.state is State.NO_RULE:
        return Verdict.NO_RULE
    failed = {each.destination: each.failure.at for each in _refused(image) if each.failure is not None}
    if first:
        awaited.former = failed
    if _refused(image) and not (hasty and failed and failed.items() <= awaited.former.items()):
        return Verdict.REFUSED
    wanted = [each for each in image.images if each.state is not State.SKIPPED]
    if not wanted:
        return Verdict.NO_RULE
    return Verdict.IN_PLACE if all(each.state is State.IN_PLACE for each in wanted) else None


def _refused(image: Image) -> list[ImageAtDestination]:
    return [each for each in image.images if each.state is State.REFUSED]


def _progress(awaited: Awaited) -> str:
    """Describe the wait of an image."""
    if awaited.trouble is not None:
        return f"no answer yet: {awaited.trouble}"
    assert awaited.image is not None  # noqa: S101 - it has an answer or trouble
    return ", ".join(dict.fromkeys(_words(each) for each in awaited.image.images))


def _words(image: ImageAtDestination) -> str:
    if image.state is State.MISSING:
        return "not at the destination, and no copy is queued yet"
    if image.state is State.NO_SOURCE:
        return "not at the source yet"
    if image.state is State.WAITING and image.failure is not None:
        return f"waiting for a retry after: {image.failure.what}"
    return str(image.state).replace("_", " ")


def _tell(awaited: Awaited) -> None:
    """Print how it ended."""
    source, image = awaited.source, awaited.image
    if awaited.verdict is Verdict.NO_RULE and image is not None and not image.images:
        return say(f"{source}: {image.reason}", stderr(), label="no rule copies", style="red")
    for each in image.images if image is not None else ():
        if each.state is State.IN_PLACE:
            say(f"{source} is at {each.destination}{f' ({short(each.digest)})' if each.digest else ''}")
        elif each.state is State.SKIPPED:
            say(f"{source} to {each.destination}: {each.note}", stderr(), label="not copied:", style="yellow")
        elif each.state is State.REFUSED and each.failure is not None:
            say(f"{source} to {each.destination}", stderr(), label="refused:", style="red")
            for line in ErrorText(each.failure.what, each.failure.why, each.failure.do).lines:
                say(line, stderr(), indent=2)
        elif awaited.trouble is None:
            label = "timed out:" if awaited.verdict is Verdict.TIMED_OUT else "not awaited:"
            say(f"{source} to {each.destination}: {_words(each)}", stderr(), label=label, style="red")
    if awaited.trouble is not None:
        label = "refused:" if awaited.verdict is Verdict.REFUSED else "no answer:"
        say(str(source), stderr(), label=label, style="red")
        for line in awaited.trouble.lines:
            say(line, stderr(), indent=2)
    return None


@contextlib.asynccontextmanager
async def _registries(settings: Settings, rules: Rules, destination: str | None) -> AsyncIterator[Ask]:
    """Ask the registries."""
    async with open_registries(settings, access_by(rules.credentials)) as (_, copier):
        states = StatesOfImages(None, copier, None, rules)

        async def ask(source: Reference, _: bool) -> Image:
            try:
                return await states.tell(source, destination)
            except ApiError as error:
                kind = getattr(error.__cause__, "error_class", ErrorClass.TRANSIENT)
                lasts = kind in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT)
                raise (NeverAnswered if lasts else NoAnswerYet)(error.text) from error

        yield ask
