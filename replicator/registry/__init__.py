"""A client of OCI registries on aiohttp: it knows neither Harbor, nor ACR, nor rules, nor queues."""

from replicator.registry.client import Registries, RemoteRepository
from replicator.registry.credentials import Access
from replicator.registry.errors import RegistryError
from replicator.registry.limits import RequestObserver, Timing
from replicator.registry.manifest import Descriptor, Manifest

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
