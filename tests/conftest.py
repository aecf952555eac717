"""Settings of every test."""

import os
import tempfile

# Toy sizes gain nothing from a second PyTorch thread, and threads that spin on a busy machine starve one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What `sundae-rt bench` once measured here shall not choose what the tests run on.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="sundae-rt-tests-")
