"""Settings of every test, and what many of them start from."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sundae_rt import Runtime


# Toy sizes gain nothing from a second PyTorch thread, and threads that spin on a busy machine starve one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What `sundae-rt bench` once measured here shall not choose what the tests run on.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="sundae-rt-tests-")


@pytest.fixture
def runtime(tmp_path: Path) -> "Runtime":
    """A runtime on a backend without a model."""
    from fakes import fake_runtime

    return fake_runtime(tmp_path)


@pytest.fixture
def with_labels(tmp_path: Path) -> "Runtime":
    """The same of a bundle with labels."""
    from fakes import fake_runtime, labelled

    return fake_runtime(tmp_path, **labelled())
