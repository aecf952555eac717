"""Settings of every test."""

import os

# Toy sizes gain nothing from a second PyTorch thread, and threads that spin on a busy machine starve one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
