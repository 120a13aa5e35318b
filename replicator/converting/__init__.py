"""From other programs' files to a rules file; a module a format, without network."""

from replicator.converting.image_syncer import Converted, convert

__all__ = ["Converted", "convert"]
