"""Imports of libraries without the parts that this program never uses; they would take a third of its start.

Only time and memory are saved: a library that is imported elsewhere first, or does something else in its next version,
works as it always does.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import structlog, PyJWT and the certificates of the system's authorities at less cost.

    - structlog comes without rich, which it needs for tracebacks in colour: ours are plain.
    - redis comes without PyJWT and its cryptography, which it needs for logins at Microsoft Entra ID.
    - aiohttp makes two TLS contexts while it is imported in this block, and each would read all authorities. A context
      now reads them when its first connection begins; those of a registry without TLS are never read.
    """
    _import_without("rich", "structlog")
    sys.modules.setdefault("jwt", _OnUse("jwt"))
    # No class of ssl has a method of this name: the one of C is found again when ours is deleted.
    ssl.SSLContext.set_default_verify_paths = _postpone  # type: ignore[assignment]  # a function for a method
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths


def _import_without(optional: str, library: str) -> None:
    """Import a library as if one that it can use were not installed."""
    if optional in sys.modules or library in sys.modules:
        return
    # None makes its import fail, as Python's reference says in "The module cache".
    sys.modules[optional] = None  # type: ignore[assignment]  # typeshed knows modules only
    try:
        importlib.import_module(library)
    finally:
        del sys.modules[optional]


class _OnUse(ModuleType):
    """Stands for a module until an attribute of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _LateAuthorities(ssl.SSLContext):
    """A context that reads the system's authorities when its first connection begins."""

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return ssl.SSLContext.wrap_bio(self._read(), *args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return ssl.SSLContext.wrap_socket(self._read(), *args, **options)

    def _read(self) -> ssl.SSLContext:
        if self.verify_mode is not ssl.CERT_NONE:
            self.set_default_verify_paths()
        # Last: a thread that comes meanwhile reads them too.
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]  # the class that it extends
        return self


def _postpone(context: ssl.SSLContext) -> None:
    context.__class__ = _LateAuthorities
