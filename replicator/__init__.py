"""Event-driven replication of Harbor images to Alibaba Cloud Container Registry."""

from importlib.metadata import version

__version__ = version("replicator")
