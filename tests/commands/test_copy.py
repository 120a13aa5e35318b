"""What ``replicator copy`` says of a copy, and what it asks the engine for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replicator.aliyun.acr import EDITIONS
from replicator.commands import copy as command
from replicator.copy import Outcome, Result
from replicator.copy.options import VERBATIM, Attestations, CopyOptions, Overwrite
from replicator.errors import FAILED, OK, ErrorClass, ReplicatorError, Wait
from replicator.reference import Reference
from replicator.registry import Access
from replicator.registry.errors import (
    CertificateRefused,
    ConnectionFailed,
    Denied,
    HostSilent,
    LoginUnavailable,
    ManifestIncomplete,
    NoTls,
    ProxyFailed,
    RegistryError,
    ServerFailed,
    TooManyRequests,
    WrongAddress,
)
from replicator.replication import transfer as transferring
from replicator.replication.transfer import CopyFailed, outlast
from replicator.settings import load_settings

if TYPE_CHECKING:
    from replicator.rules import CopyRequest

SOURCE, DESTINATION = Reference.parse("h.example.com/a/b:1"), Reference.parse("r.example.com/c/d:1")
SHA = "sha256:" + "a" * 64


async def said(
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: CopyOptions = VERBATIM,
) -> tuple[list[str], CopyOptions]:
    """The lines that are printed when a copy ends so, and what of the image was asked for."""
    asked: list[CopyOptions] = []

    async def transfer(_: Any, request: CopyRequest, **__: Any) -> Outcome:
        asked.append(request.options)
        return outcome

    monkeypatch.setattr(command, "transfer", transfer)
    monkeypatch.setenv("REPLICATOR_STATE_DIR", "/nonexistent/state")
    code = await command.copy_one(load_settings(), lambda _: Access(), SOURCE, DESTINATION, options)
    assert code == (FAILED if outcome.result is Result.SKIPPED else OK)
    return capsys.readouterr().out.splitlines(), asked[0]


def ended(result: Result, **values: Any) -> Outcome:
    return Outcome(result, str(SOURCE), str(DESTINATION), SHA, **values)


COPIED = (
    f"copied {SOURCE} to {DESTINATION}: {SHA}, 0 bytes in 0.0 s; blobs: 0 sent, 0 mounted, 0 already there; manifests: "
)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (ended(Result.UP_TO_DATE), f"up to date: {DESTINATION} is {SHA}"),
        (ended(Result.UP_TO_DATE, note="less [of] it"), f"up to date: {DESTINATION} is {SHA}; less [of] it"),
        (ended(Result.COPIED, manifests=2), f"{COPIED}2"),
        (ended(Result.COPIED, note="one attestation is left out"), f"{COPIED}0; one attestation is left out"),
        (ended(Result.COPIED, manifests=3, signatures=2, note="less"), f"{COPIED}3; signatures: 2; less"),
        (ended(Result.COPIED, manifests=2, replaced="sha256:old"), f"{COPIED}2; replaced: sha256:old"),
        (ended(Result.UP_TO_DATE, manifests=1, signatures=1), f"up to date: {DESTINATION} is {SHA}; signatures: 1"),
        (ended(Result.SKIPPED, note="no such platform"), f"skipped: {SOURCE}: no such platform"),
    ],
)
async def test_a_copy_is_told_in_one_sentence(
    outcome: Outcome, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await said(outcome, monkeypatch, capsys) == ([line], VERBATIM)


async def test_a_copy_may_be_told_to_replace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Overwrite] = []

    async def transfer(_: Any, request: CopyRequest, **__: Any) -> Outcome:
        asked.append(request.overwrite)
        return ended(Result.SKIPPED, note="left alone")

    monkeypatch.setattr(command, "transfer", transfer)
    for overwrite in Overwrite.ALWAYS, Overwrite.NEVER:
        await command.copy_one(load_settings(), lambda _: Access(), SOURCE, DESTINATION, overwrite=overwrite)
    assert asked == [Overwrite.ALWAYS, Overwrite.NEVER]


async def test_every_warning_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, _ = await said(ended(Result.UP_TO_DATE, warnings=("a [b]", "c")), monkeypatch, capsys)
    assert lines[1:] == ["Warning: a [b]", "Warning: c"]


async def test_what_of_the_image_is_asked_for_reaches_the_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = CopyOptions(signatures=True)
    assert (await said(ended(Result.COPIED), monkeypatch, capsys, options))[1] == options


class Clock:
    """A clock that only pauses move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("replicator.retry.asyncio.sleep", self.sleep)
        monkeypatch.setattr(transferring, "time", self)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failed(cause: RegistryError) -> CopyFailed:
    error = CopyFailed(str(cause), cause.error_class, cause.retry_after, cause.wait)
    error.__cause__ = cause.at("r.example.com")
    return error


def silent() -> HostSilent:
    error = HostSilent("r.example.com has not answered")
    error.wait = Wait("r.example.com", 0.0, pause=30.0)
    return error


@pytest.mark.parametrize(
    "cause",
    [ServerFailed("502"), ServerFailed("503", retry_after=7.0), TooManyRequests("429"), ConnectionFailed("refused")],
)
async def test_a_copy_in_the_foreground_waits_out_a_minute_and_says_so_once(cause: RegistryError, clock: Clock) -> None:
    done = ended(Result.COPIED)
    told: list[RegistryError] = []
    ends = clock.now + 60

    async def copy() -> Outcome:
        if clock.now < ends:
            raise failed(cause)
        return done

    assert await outlast(copy, told.append) is done
    assert told == [cause]
    assert clock.now < ends + 10


async def test_a_host_that_is_probed_now_and_then_is_waited_for_until_its_probe(clock: Clock) -> None:
    errors = [failed(silent()), failed(silent())]

    async def copy() -> Outcome:
        if errors:
            raise errors.pop()
        return ended(Result.COPIED)

    began = clock.now
    await outlast(copy, lambda _: None)
    assert clock.now == began + 60


async def test_an_outage_without_an_end_ends_the_copy_and_a_later_one_is_another(clock: Clock) -> None:
    told: list[RegistryError] = []
    long = iter([0.0, 0.0, 200.0])

    async def copy() -> Outcome:
        clock.now += next(long, 0.0)
        raise failed(ServerFailed("502"))

    began = clock.now
    with pytest.raises(CopyFailed, match="502"):
        await outlast(copy, told.append)
    assert len(told) == 2
    assert 380 <= clock.now - began <= 400


@pytest.mark.parametrize(
    "cause",
    [
        WrongAddress("the name r.example.com can't be resolved"),
        NoTls("no TLS"),
        CertificateRefused("not trusted"),
        ProxyFailed("407"),
        LoginUnavailable("no such helper"),
        ManifestIncomplete("400"),
        Denied("403"),
        ServerFailed("503", retry_after=600.0),
    ],
    ids=lambda cause: type(cause).__name__,
)
async def test_what_a_minute_does_not_mend_ends_a_copy_at_once(cause: RegistryError, clock: Clock) -> None:
    began = clock.now

    async def copy() -> Outcome:
        raise failed(cause)

    with pytest.raises(ReplicatorError) as caught:
        await outlast(copy, lambda _: pytest.fail("it waits"))
    assert caught.value.__cause__ is cause
    assert clock.now == began


@pytest.mark.parametrize("automatic", [True, False])
async def test_a_registry_that_turns_out_to_be_acr_decides_about_attestations(
    monkeypatch: pytest.MonkeyPatch, *, automatic: bool
) -> None:
    asked: list[Attestations] = []

    async def transfer(_: Any, request: CopyRequest, **__: Any) -> Outcome:
        asked.append(request.options.attestations)
        EDITIONS.learn(DESTINATION.registry, "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef")
        if request.options.attestations is Attestations.KEEP:
            raise CopyFailed("it refuses an attestation", ErrorClass.PERMANENT)
        return ended(Result.COPIED)

    monkeypatch.setattr(command, "transfer", transfer)
    monkeypatch.setenv("REPLICATOR_STATE_DIR", "/nonexistent/state")
    copying = command.copy_one(load_settings(), lambda _: Access(), SOURCE, DESTINATION, automatic=automatic)
    if automatic:
        assert await copying == OK
        assert asked == [Attestations.KEEP, Attestations.STRIP_REFUSED]
        return
    with pytest.raises(CopyFailed):
        await copying
    assert asked == [Attestations.KEEP]


async def test_a_name_that_acr_can_not_hold_fails_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_registries", None)
    destination = Reference.parse(f"registry.cn-beijing.aliyuncs.com/mirror/{'x' * 65}:v1")
    with pytest.raises(CopyFailed, match="the Personal Edition takes 2 to 64") as caught:
        await command.copy_one(load_settings(), lambda _: Access(), SOURCE, destination)
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.do == "choose another name for the destination"
