"""When certificates expire: those that servers show, those in `ca_file`, and the one of this process's own webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from replicator.server.metrics.counters import MOST_VALUES, OTHER, BoundedLabels
from replicator.server.metrics.families import CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

_MOST_BYTES = 1024 * 1024
"""Of a file with certificates."""


class Expiries(Collector):
    """Gauges of the ends of certificates.

    Args:
        hosts: the registries that have series of their own.

    Attributes:
        webhook: the file with this process's own certificate; None without one.
    """

    def __init__(self, hosts: BoundedLabels) -> None:
        self._hosts = hosts
        self._servers: dict[str, float] = {}
        self._files: dict[Path, tuple[tuple[int, int], float | None]] = {}
        self._ca_files: Mapping[str, frozenset[Path]] = {}
        self.webhook: Path | None = None

    def use_ca_files(self, files: Mapping[str, frozenset[Path]]) -> None:
        """Look at these files of authorities from now on, by the registry that they are for."""
        self._ca_files = files

    def certified(self, server: str, ends: float) -> None:
        """Note a certificate that a server has shown.

        Args:
            server: its name, without a port.
            ends: in Unix time.
        """
        if server in self._servers or len(self._servers) < MOST_VALUES:
            self._servers[server] = ends

    def describe(self) -> Iterable[Metric]:
        """Name the metric, so that the library detects duplicates without collecting."""
        return [GaugeMetricFamily(CERTIFICATE.name, CERTIFICATE.help, labels=CERTIFICATE.labels)]

    def collect(self) -> Iterable[Metric]:
        """Yield the ends as they are known now."""
        found = GaugeMetricFamily(CERTIFICATE.name, CERTIFICATE.help, labels=CERTIFICATE.labels)
        for label, ends in sorted(self._by_label().items()):
            found.add_metric(["server", label], ends)
        for label, files in sorted(self._ca_files.items()):
            if known := [ends for ends in map(self._file_ends, files) if ends is not None]:
                found.add_metric(["ca_file", self._hosts.label(label)], min(known))
        own = self._file_ends(self.webhook) if self.webhook is not None else None
        if own is not None:
            found.add_metric(["webhook", ""], own)
        yield found

    def _by_label(self) -> dict[str, float]:
        """The first end of each registry, independent of its port; all other servers share a label."""
        labels: dict[str, list[str]] = {}
        for host, label in self._hosts.items():
            labels.setdefault(urlsplit(f"//{host}").hostname or host, []).append(label)
        found: dict[str, float] = {}
        for server, ends in self._servers.items():
            for label in labels.get(server, [OTHER]):
                found[label] = min(ends, found.get(label, ends))
        return found

    def _file_ends(self, path: Path) -> float | None:
        """Return when the first certificate in a file ends, which is read again when it changes; None without one."""
        try:
            status = path.stat()
            state = (status.st_mtime_ns, status.st_size)
            if (known := self._files.get(path)) is not None and known[0] == state:
                return known[1]
            ends = _first_end(path)
        except OSError:
            # It says so itself where it is used.
            return None
        self._files[path] = (state, ends)
        return ends


def _first_end(path: Path) -> float | None:
    # Few installations name such files, and the library takes 40 ms to load.
    from cryptography.x509 import load_pem_x509_certificates

    with path.open("rb") as file:
        data = file.read(_MOST_BYTES)
    try:
        return min(each.not_valid_after_utc.timestamp() for each in load_pem_x509_certificates(data))
    except ValueError:
        return None
