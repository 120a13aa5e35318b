"""The probe of the embedded queue's state directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from replicator.checking.findings import Finding, State
from replicator.errors import ConfigError
from replicator.queue.embedded import Use, server_program, use_of

if TYPE_CHECKING:
    from pathlib import Path


async def try_state_directory(directory: Path) -> list[Finding]:
    """Tell whether the embedded queue can keep its data; nothing is made or started."""
    subject = str(directory)
    try:
        server_program()
    except ConfigError as error:
        return [Finding("queue", subject, State.FAILED, "; ".join(map(str, error.problems)))]
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        message = f"{place} is no directory that this user may write to: set REPLICATOR_STATE_DIR to one that is"
        return [Finding("queue", subject, State.FAILED, message)]
    try:
        use = await use_of(directory)
    except OSError as error:
        message = f"its lock can't be read ({error.strerror}): run this as the user of the service"
        return [Finding("queue", subject, State.FAILED, message)]
    if use is Use.SERVER:
        return [Finding("queue", subject, State.OK, "in use by the running replicator")]
    if use is Use.LOCKED:
        message = "locked by another replicator whose queue does not answer: end that process, or set "
        return [Finding("queue", subject, State.FAILED, f"{message}REPLICATOR_STATE_DIR to another directory")]
    message = "can be used" if place == directory else "is made at the first start"
    return [Finding("queue", subject, State.OK, message)]
