"""A client for OCI registries on aiohttp, usable without Harbor, ACR, rules and queue."""

from typing import TYPE_CHECKING

from replicator import lazy_exports

if TYPE_CHECKING:
    from replicator.registry.client import Registries, RemoteRepository
    from replicator.registry.connection import Request
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
    "Request",
    "RequestObserver",
    "Timing",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Registries": "client",
        "RemoteRepository": "client",
        "Request": "connection",
        "Access": "credentials",
        "RegistryError": "errors",
        "RequestObserver": "limits",
        "Timing": "limits",
        "Descriptor": "manifest",
        "Manifest": "manifest",
    },
)
