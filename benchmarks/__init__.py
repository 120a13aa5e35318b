"""How fast the replicator is, beside other programs that do the same on the same two registries."""
