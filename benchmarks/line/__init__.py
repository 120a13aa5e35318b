"""Copies over a line of a given rate and round trip: what is sent, what arrives, and what a small push waits for."""
