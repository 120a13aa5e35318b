"""Harbor's REST API, ``/api/v2.0``: what the registry protocol can't tell, such as a project's repositories."""

from replicator.harbor.api import HarborApi
from replicator.harbor.pages import ROWS_A_PAGE
from replicator.harbor.rows import Artifact, ArtifactTag, ListedRepository

__all__ = ["ROWS_A_PAGE", "Artifact", "ArtifactTag", "HarborApi", "ListedRepository"]
