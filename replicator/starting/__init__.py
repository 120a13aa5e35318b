"""The first files of an installation: a rules file and its ``.env``, from a few answers. No network."""

from replicator.starting.answers import Answers
from replicator.starting.rendering import render_environment, render_rules
from replicator.starting.writing import write

__all__ = ["Answers", "render_environment", "render_rules", "write"]
