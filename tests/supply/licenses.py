"""``make licenses``: the licences of the runtime dependencies, as their metadata says.

What is said comes as an SPDX expression (core metadata, ``License-Expression``), as a classifier, or as free text.
"""

from __future__ import annotations

import re
from importlib import metadata

from tests.supply.locked import locked

_OTHER_NAMES = {
    "apache license 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "mit": "MIT",
    "mit license": "MIT",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "python software foundation license": "PSF-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unlicense"}
)
"""What may be passed on with a program under Apache-2.0; MPL-2.0 as long as its files are unchanged."""


def license_of(name: str) -> str:
    """Return what an installed distribution says, as an SPDX expression where that can be told.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    said = metadata.metadata(name).json
    if expression := said.get("license_expression"):
        return str(expression)
    classifiers = [line for line in said.get("classifier", ()) if line.startswith("License ::")]
    # Of several it may be any, as far as a classifier can say.
    known = [_spdx(line.rpartition(" :: ")[2]) for line in classifiers]
    return " OR ".join(known) or _spdx(str(said.get("license", "")).split("\n")[0])


def _spdx(text: str) -> str:
    return _OTHER_NAMES.get(text.strip().lower(), text.strip()) or "unknown"


def is_allowed(expression: str) -> bool:
    """Tell whether an SPDX expression of ``AND`` and ``OR`` can be met with allowed licences alone."""
    return any(
        all(part.strip(" ()") in ALLOWED for part in re.split(r"\s+AND\s+", choice))
        for choice in re.split(r"\s+OR\s+", expression)
    )


def main() -> None:
    """Print a line for each distribution that runs."""
    for entry in locked("requirements.lock").values():
        print(f"{entry.name:<30} {entry.version:<18} {license_of(entry.name)}")


if __name__ == "__main__":
    main()
