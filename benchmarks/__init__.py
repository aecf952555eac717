"""Speeds, memory and distances that the README claims, reproduced. Not installed: run from the repository's root."""
