"""Checkpoint to bundle: ONNX graphs, checked against PyTorch, under a manifest."""

from sundae_rt.export.bundle import export_checkpoint

__all__ = ["export_checkpoint"]
