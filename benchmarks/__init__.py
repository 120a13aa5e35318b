"""Benchmarks of the replicator beside other programs, on the same two registries."""
