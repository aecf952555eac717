"""Checkpoints of published code, read into this project's own models."""
