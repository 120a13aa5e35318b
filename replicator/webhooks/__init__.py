"""The webhook policies that Harbors need to tell the replicator of pushes: made, shown, tried out and removed."""
