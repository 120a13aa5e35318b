"""A client of OCI registries on aiohttp: it knows neither Harbor, nor ACR, nor rules, nor queues."""

from replicator.registry.access import Access
from replicator.registry.client import Registries
from replicator.registry.errors import RegistryError
from replicator.registry.manifest import Descriptor, Manifest
from replicator.registry.observer import RequestObserver
from replicator.registry.repository import RemoteRepository
from replicator.registry.timing import Timing

__all__ = [
    "Access",
    "Descriptor",
    "Manifest",
    "Registries",
    "RegistryError",
    "RemoteRepository",
    "RequestObserver",
    "Timing",
]
