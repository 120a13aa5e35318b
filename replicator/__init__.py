"""Copies images from Harbor to Alibaba Cloud Container Registry at every push."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__version__ = "0.1.0"


def lazy_exports(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__`` (PEP 562), which imports a public name when it is first used.

    Without it every import of one module of a package would import all others, and aiohttp with them.

    Args:
        package: the package's ``__name__``.
        names: the module of each public name.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    return get
