"""The ends of certificates, as servers show them and as they lie in files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme

from replicator.queue import LoadedConfig
from replicator.rules import parse
from replicator.server.metrics import Metrics
from tests.server.metrics.conftest import RULES
from tests.server.metrics.test_conventions import ACR, exposed

if TYPE_CHECKING:
    from pathlib import Path

    from replicator.queue import Queue

ENDS = "replicator_certificate_expiry_timestamp_seconds"
SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)


async def test_a_server_that_is_no_registry_of_the_rules_counts_with_all_others(metrics: Metrics) -> None:
    assert (await exposed(metrics)).series(ENDS) == {}
    for server, ends in ((ACR, 7.0), ("a.example.com", 3.0), ("b.example.com", 2.0), (ACR, 9.0)):
        metrics.requests.observer.certified(server, ends)
    metrics.requests.observer.certified("b.example.com", 5.0)
    assert (await exposed(metrics)).series(ENDS) == {(ACR, "server"): 9, ("other", "server"): 3}


async def test_files_are_read_again_when_they_change(queue: Queue, tmp_path: Path) -> None:
    authority, own = tmp_path / "ca.pem", tmp_path / "own.pem"
    pair = trustme.CA(), trustme.CA()
    authority.write_bytes(b"".join(each.cert_pem.bytes() for each in pair))
    own.write_text("nothing yet")
    rules = RULES.replace(f"{ACR}: {{anonymous: true}}", f"{ACR}: {{anonymous: true, ca_file: {authority}}}")
    metrics = Metrics(parse(rules, "rules", environ={}), queue, None)
    metrics.watch_process("serve", lambda: LoadedConfig(0.0, None), own)
    assert set((await exposed(metrics)).series(ENDS)) == {(ACR, "ca_file")}
    own.write_bytes(pair[0].issue_cert("localhost", not_after=SOON).cert_chain_pems[0].bytes())
    assert (await exposed(metrics)).series(ENDS)["", "webhook"] == SOON.timestamp()
    authority.unlink()
    assert set((await exposed(metrics)).series(ENDS)) == {("", "webhook")}
