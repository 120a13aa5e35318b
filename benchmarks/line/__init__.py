"""Copies over a line of a given rate and round trip: bytes sent, tags that arrive, and the wait of a small push."""
