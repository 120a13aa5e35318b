"""Event-driven replication of Harbor images to Alibaba Cloud Container Registry."""

__version__ = "0.1.0"
