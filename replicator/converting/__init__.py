"""From other programs' files to a rules file; a module a format, without network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.converting import image_syncer, regsync, skopeo
from replicator.converting.detecting import Program, read
from replicator.converting.draft import File, Options
from replicator.converting.writing import Converted, finished

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Converted", "File", "Options", "Program", "convert"]

_FORMATS = {"image-syncer": image_syncer.drafted, "regsync": regsync.drafted, "skopeo": skopeo.drafted}


def convert(files: Sequence[File], options: Options, program: Program | None = None) -> Converted:
    """Convert the files of another program.

    Args:
        files: one; or two of image-syncer, ``auth`` and ``images``, in any order.
        options: what the files don't say.
        program: whose they are; None to tell by what stands in them.

    Raises:
        ConfigError: they can't be read, or their rules can't be used; with every problem at once.
    """
    found, sections = read(files, program)
    return finished(_FORMATS[found](sections, options), " and ".join(file.name for file in files))
