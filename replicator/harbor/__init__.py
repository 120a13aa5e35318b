"""Harbor: its webhook events, its REST API (``/api/v2.0``) and the webhook policies of its projects."""

from replicator.harbor.api import HarborApi
from replicator.harbor.lists import ROWS_A_PAGE, Artifact, ArtifactTag, ListedRepository

__all__ = ["ROWS_A_PAGE", "Artifact", "ArtifactTag", "HarborApi", "ListedRepository"]
