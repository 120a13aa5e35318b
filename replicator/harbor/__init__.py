"""Harbor: its webhook events, its REST API (``/api/v2.0``) and the webhook policies of its projects."""

from replicator.harbor.api import Artifact, ArtifactTag, HarborApi, ListedRepository
from replicator.harbor.pages import ROWS_A_PAGE

__all__ = ["ROWS_A_PAGE", "Artifact", "ArtifactTag", "HarborApi", "ListedRepository"]
