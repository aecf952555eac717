"""A system of the paper, whole: exported at its real size and generated from, with one command each.

It is the smallest preset with a VQ-GAN. CONTRIBUTING.md has the loop that does the same to every other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt
from sundae_rt.bundle import Bundle
from sundae_rt.training import describe

PRESET, PARAMETERS = "ffhq256-2102", 178_429_952
UNUSED = 1024 * 512  # the queries of the one attention that sees a single key
SLACK = 2**20  # bytes: nodes come on top of the weights, and norms that are equal, as new ones are, share theirs


def command(*arguments: str | Path) -> None:
    """Runs a command in a process of its own, which hands its memory back."""
    done = subprocess.run([sys.executable, "-m", "sundae_rt", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def bundle() -> Iterator[Path]:
    """The bundle, a gigabyte that is gone after the tests whatever pytest keeps."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        command("export", "--preset", PRESET, "--random-weights", "--out", out)
        yield out


def test_the_graphs_hold_every_parameter_that_counts_of_the_papers_sizes(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert manifest.provenance["prior"]["preset"] == manifest.provenance["vqgan"]["preset"] == PRESET
    assert (manifest.latent_grid, manifest.vocabulary, manifest.labels) == ((16, 16), 1024, None)
    assert manifest.image_size == (256, 256)
    assert manifest.graphs.keys() == {"denoiser", "decoder", "encoder"}
    assert describe("prior", PRESET)["parameters"] == PARAMETERS
    size: Counter[str] = Counter()  # of a graph and the file of its weights
    for path in bundle.glob("*.onnx*"):
        size[path.name.split(".")[0]] += path.stat().st_size
    assert size["denoiser"] == pytest.approx(4 * (PARAMETERS - UNUSED), abs=SLACK)
    # Encoder and decoder both hold the codebook.
    vqgan = describe("vqgan", PRESET)
    twice = vqgan["config"]["codebook_size"] * vqgan["config"]["code_dim"]
    assert size["encoder"] + size["decoder"] == pytest.approx(4 * (vqgan["parameters"] + twice), abs=SLACK)


def test_its_engines_are_built_of_its_graphs_without_pytorch(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="engines are built by the package tensorrt-rtx")
    command("build", "--bundle", bundle, "--precision", "fp32", "--batch", "1", "--batch", "1:64")
    sizes = {path.name.split("-")[0]: path.stat().st_size for path in (bundle / "engines").glob("*.engine")}
    # An engine holds its weights.
    assert sizes["denoiser"] > 3.9 * (PARAMETERS - UNUSED)
    assert min(sizes["decoder"], sizes["encoder"]) > 4 * 2**20


def test_a_seed_gives_the_same_picture_in_every_run(bundle: Path, tmp_path: Path) -> None:
    command(
        "generate",
        "--bundle",
        bundle,
        "--variant",
        "fp32",
        "--n",
        "1",
        "--steps",
        "2",
        "--seed",
        "5",
        "--out",
        tmp_path,
    )
    with Image.open(tmp_path / "000000.png") as image:
        assert (image.mode, image.size) == ("RGB", (256, 256))
        written = np.asarray(image)
    assert written.std() > 1
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        one, other = (runtime.generate(n=1, steps=2, seed=5)[0] for _ in range(2))
    assert (one.codes.shape, one.codes.dtype) == ((16, 16), np.int32)
    assert one.codes.tobytes() == other.codes.tobytes()
    np.testing.assert_array_equal(np.asarray(one.image), written)
