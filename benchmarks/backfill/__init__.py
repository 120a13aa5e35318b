"""Backfills at the size of a real Harbor: hundreds of repositories, thousands of tags."""
