"""Two registries between which signatures are copied."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from replicator.copy import Copier, Outcome
from replicator.copy.options import CopyOptions
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from tests.copy.conftest import PATIENT
from tests.standins.distribution import reused_distribution
from tests.standins.faults import FaultLayer
from tests.standins.harbor import HarborStandIn
from tests.standins.images import (
    Image,
    Index,
    cosign_tag,
    fetch_raw,
    index,
    multi_arch,
    push,
    put_manifest,
    verify_tree,
)
from tests.standins.logins import HARBOR_ADMIN
from tests.standins.proxy import Upstream
from tests.standins.server import serve

SIGNED = CopyOptions(signatures=True)
ROOT = multi_arch(1)
NAME = "team/app"


@dataclass
class End:
    """A registry: a Harbor with the referrers API, or a plain one whose clients keep the fallback tag."""

    host: str
    auth: tuple[str, str] | None
    faults: FaultLayer

    @property
    def access(self) -> Access:
        name, password = self.auth or (None, None)
        return Access(name, password, endpoint=f"http://{self.host}")

    def reference(self, identifier: str) -> Reference:
        digest = identifier if ":" in identifier else None
        return Reference(Repository(self.host, NAME), None if digest else identifier, digest)

    async def push(self, tag: str, root: Image | Index) -> None:
        await push(self.host, NAME, tag, root, self.auth)

    async def attach(self, *referrers: tuple[Image, Image | Index]) -> None:
        """Push referrers as a client does: with the fallback tag where the registry does not list them."""
        for one, subject in referrers:
            await push(self.host, NAME, one.digest, one, self.auth)
            if self.auth is None:
                tag = cosign_tag(subject, "")
                rows = await self.listed(subject) if await self.has(tag) else []
                fallback = index([one])
                rows += json.loads(fallback.content)["manifests"]
                document = {**json.loads(fallback.content), "manifests": rows}
                content = json.dumps(document).encode()
                await put_manifest(self.host, NAME, tag, Index(fallback.media_type, content, (one,)), self.auth)

    async def listed(self, subject: Image | Index) -> list[dict[str, Any]]:
        """Return the referrers of ``subject`` that a client finds."""
        if self.auth is None:
            content, _ = await fetch_raw(self.host, NAME, cosign_tag(subject, ""))
            return list(json.loads(content)["manifests"])
        async with Registries(lambda _: self.access) as registries:
            found = await registries.source(Repository(self.host, NAME)).referrers(subject.digest)
        return [{"digest": one.digest, "artifactType": one.artifact_type} for one in found or ()]

    async def has(self, identifier: str) -> bool:
        try:
            await fetch_raw(self.host, NAME, identifier, self.auth)
        except LookupError:
            return False
        return True

    async def holds(self, identifier: str, root: Image | Index) -> None:
        await verify_tree(self.host, NAME, identifier, root, self.auth)


@dataclass
class Ends:
    """A source and a destination of signatures."""

    source: End
    destination: End
    copier: Copier

    async def copy(self, tag: str = "v1", options: CopyOptions = SIGNED) -> Outcome:
        return await self.copier.copy(self.source.reference(tag), self.destination.reference(tag), options=options)

    async def copy_signature(self, identifier: str) -> Outcome:
        return await self.copier.copy_signature(
            self.source.reference(identifier), self.destination.reference(identifier)
        )

    def writes(self) -> list[str]:
        return [entry.path for entry in self.destination.faults.log if entry.method in ("PUT", "POST")]


async def an_end(stack: AsyncExitStack, kind: str) -> End:
    plain = await stack.enter_async_context(reused_distribution(images_only=kind == "strict"))
    if kind == "harbor":
        harbor = HarborStandIn(plain, users=dict([HARBOR_ADMIN]), projects={"team": False})
        await stack.enter_async_context(harbor)
        return End(harbor.host, HARBOR_ADMIN, harbor.faults)
    upstream = await stack.enter_async_context(Upstream(plain))
    faults = FaultLayer(upstream.forward)
    return End(await stack.enter_async_context(serve(faults)), None, faults)


class some_ends:  # noqa: N801 - used like a function
    def __init__(self, kinds: str) -> None:
        self._kinds = kinds.split("-")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Ends:
        source, destination = [await an_end(self._stack, kind) for kind in self._kinds]
        access = {end.host: end.access for end in (source, destination)}
        registries = await self._stack.enter_async_context(
            Registries(lambda repository: access[repository.registry], timing=PATIENT)
        )
        return Ends(source, destination, Copier(registries))

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
