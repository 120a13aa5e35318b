"""What `replicator check` finds of a registry's certificate."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.commands.check.asking import RULE, checked, failed
from tests.standins.harbor import HarborStandIn
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House


def server(
    authority: trustme.CA,
    name: str = "127.0.0.1",
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, not_before=not_before, not_after=not_after).configure_cert(tls)
    return tls


def trusting(house: House, host: str, authority: trustme.CA) -> Path:
    """Rules for a Harbor at ``host`` whose authority is known."""
    authority.cert_pem.write_to_path(house.directory / "ca.pem")
    rules = house.rules(RULE)
    text = rules.read_text().replace(house.harbor.host, host)
    rules.write_text(text.replace('"insecure": true', '"ca_file": "ca.pem"', 1))
    return rules


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("name", "validity", "says"),
    [
        ("127.0.0.1", {"not_before": NOW - timedelta(9), "not_after": NOW - timedelta(1)}, "renew it there"),
        ("127.0.0.1", {"not_before": NOW + timedelta(1), "not_after": NOW + timedelta(9)}, "too early"),
        ("other.example.com", {}, "use a name that the certificate contains"),
        ("127.0.0.2", {}, "use a name that the certificate contains"),
    ],
    ids=["expired", "not yet valid", "another name", "another address"],
)
async def test_a_certificate_that_does_not_hold_is_told_with_what_to_do(
    pushed: House, name: str, validity: dict[str, Any], says: str
) -> None:
    authority = trustme.CA()
    async with serve(pushed.harbor.faults, tls=server(authority, name, **validity)) as host:
        found = failed(await checked(pushed, trusting(pushed, host, authority), 1))
    assert says in found["login"]
    # Another authority would not help, and to verify nothing is no remedy.
    assert "ca_file" not in found["login"]
    assert "insecure" not in found["login"]


async def test_a_certificate_of_an_unknown_authority_is_told_with_what_to_do(pushed: House) -> None:
    async with serve(pushed.harbor.faults, tls=server(trustme.CA())) as host:
        found = failed(await checked(pushed, trusting(pushed, host, trustme.CA()), 1))
    assert "its authority is not in" in found["login"]


async def test_a_certificate_that_ends_soon_is_told_with_its_day(pushed: House) -> None:
    authority, ends = trustme.CA(), datetime.now(UTC) + timedelta(days=9)
    users, projects = dict([HARBOR_ROBOT]), {"library": True}
    tls = server(authority, not_after=ends)
    async with HarborStandIn(pushed.behind_harbor, users=users, projects=projects, tls=tls) as harbor:
        rules = trusting(pushed, harbor.host, authority)
        lines = await checked(pushed, rules, 0)
    (line,) = [line for line in lines if line["name"] == "certificate"]
    assert f"expires on {ends:%Y-%m-%d}" in line["message"]
