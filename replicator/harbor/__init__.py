"""Harbor's REST API, ``/api/v2.0``: what the registry protocol can't tell, such as a project's repositories.

The webhook policies that Harbors need to tell the replicator of pushes: made, shown, tried out and removed.
"""

from replicator.harbor.api import Artifact, ArtifactTag, HarborApi, ListedRepository
from replicator.harbor.pages import ROWS_A_PAGE

__all__ = ["ROWS_A_PAGE", "Artifact", "ArtifactTag", "HarborApi", "ListedRepository"]
