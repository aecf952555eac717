"""A labelled prior's real graph: rows of any label and guidance share a batch, and no row feels the others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from fakes import labelled, manifest  # noqa: E402
from sundae_rt.backends import open_backend  # noqa: E402
from sundae_rt.export.conversion import to_onnx  # noqa: E402
from sundae_rt.export.graphs import LabelledDenoiser  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402

GRID, VOCABULARY = (4, 4), 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of nothing but the denoiser of a small labelled prior with random weights."""
    torch.manual_seed(0)
    sizes = HourglassConfig(VOCABULARY, GRID, depth=(1, 1, 1), dims=(64,), heads=(1,), labels=3, null_label=True)
    inputs = {
        "codes": torch.randint(VOCABULARY, (3, 16), dtype=torch.int32),
        "temperature": torch.tensor([0.0, 0.7, 1.0]),
        "uniform": torch.rand(3, 16),
        "update": torch.rand(3, 16) < 0.5,
        "label": torch.tensor([0, 1, 2], dtype=torch.int32),
        "guidance": torch.tensor([1.0, 1.5, 1.0]),
    }
    module = LabelledDenoiser(HourglassPrior(sizes)).eval()
    data = to_onnx(module, inputs, ["new_codes", "proposal", "confidence", "logits"]).SerializeToString()
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "denoiser.onnx").write_bytes(data)
    entry = {"file": "denoiser.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    sides = {"image_size": None, "latent_grid": GRID, "vocabulary": VOCABULARY}
    values = manifest(**labelled(**sides, graphs={"denoiser": {"fp32": entry}}))
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(("backend", "variant"), [("cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")])
def test_no_row_depends_on_the_labels_and_guidance_of_the_others(bundle: Path, backend: str, variant: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
        if variant not in {"fp32", *open_backend("openvino").derives}:
            pytest.skip(f"OpenVINO makes no {variant} on this processor")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, VOCABULARY, (8, *GRID))
    uniform = rng.random((8, *GRID), np.float32)
    update = rng.random((8, *GRID)) < 0.5
    temperature = np.array([0, 1, 0.7, 1, 1, 0.5, 0, 1])
    label = rng.integers(0, 3, 8)
    guidance = np.array([1, 3, 1, 0, 1.5, 1, 2, 1])

    def step(runtime: sundae_rt.Runtime, rows: list[int]) -> list[np.ndarray]:
        return list(
            runtime.denoise(
                codes[rows], temperature[rows], uniform[rows], update[rows], label=label[rows], guidance=guidance[rows]
            )
        )

    with sundae_rt.load(bundle, backend=backend, variant=variant, threads=2) as runtime:
        alone = [np.concatenate(parts) for parts in zip(*(step(runtime, [row]) for row in range(8)), strict=True)]
        for rows in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 5], [4, 1], [2, 0, 7, 5], [6, 4, 3, 1, 6]):
            for mixed, own in zip(step(runtime, rows), alone, strict=True):
                np.testing.assert_array_equal(mixed, own[rows])
