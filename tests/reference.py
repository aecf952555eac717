"""Small models with random weights and what the published code makes of them, where they lie beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "reference"


def path(name: str) -> Path:
    """A file of the references; the test is skipped where there are none."""
    if not FOLDER.is_dir():
        pytest.skip("the reference models do not lie in ../shared/reference")
    return FOLDER / name


def recorded(model: str) -> dict[str, np.ndarray]:
    """What the published code made of a model: the arrays of its `.io.npz`."""
    with np.load(path(f"{model}.io.npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}
