"""Weights stored in 16 bits: half the size, the same pictures but for the rounding, computed in fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from sundae_rt.bundle import Bundle  # noqa: E402
from sundae_rt.errors import BundleError, InputError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import export_checkpoint, making  # noqa: E402
from sundae_rt.export.checks import Tolerance  # noqa: E402
from sundae_rt.export.halves import PriorHalf, VQGANHalf  # noqa: E402
from sundae_rt.export.rounding import rounded  # noqa: E402
from sundae_rt.export.sources import Sources  # noqa: E402
from sundae_rt.export.variants import ROUNDED  # noqa: E402
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from tests.vqgans import random_vqgan  # noqa: E402


@pytest.fixture(params=[False, True], ids=["codebook as it is", "codebook on the unit sphere"])
def sources(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Sources:
    found = Sources(None, VQGANHalf(random_vqgan(unit_norm=request.param)))
    monkeypatch.setattr(writing, "from_checkpoints", lambda *_, **__: found)
    return found


def exported(out: Path, **options: object) -> Path:
    return export_checkpoint(None, vqgan=Path("vqgan.pt"), out=out, say=lambda _: None, **options)


def opened(bundle: Path, backend: str = "cpu") -> sundae_rt.Runtime:
    return sundae_rt.load(bundle, backend=backend, variant="fp32")


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_files_halve_and_pictures_stay(tmp_path, sources, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    whole, half = exported(tmp_path / "whole"), exported(tmp_path / "half", half_weights=True)
    for graph in ("decoder.onnx", "encoder.onnx"):
        assert (half / graph).stat().st_size < 0.6 * (whole / graph).stat().st_size
    codes = np.random.default_rng(0).integers(0, 19, (3, 8, 8), dtype=np.int32)
    with opened(whole) as wanted, opened(half, backend) as found:
        pictures = wanted.decode(codes)
        assert np.abs(found.decode(codes).astype(int) - pictures).max() <= ROUNDED.tolerance.pixels
        assert (found.encode(pictures) == wanted.encode(pictures)).mean() >= ROUNDED.tolerance.codes
        checks = found.manifest.checks
        assert checks["decoder"]["weights"] == checks["encoder"]["weights"] == "fp16"
        assert checks["decoder"]["pixels_max_difference"] <= ROUNDED.tolerance.pixels


def test_what_is_stored_is_the_nearest_half_and_what_is_computed_is_fp32(tmp_path, sources):
    graph = onnx.load(exported(tmp_path / "half", half_weights=True) / "decoder.onnx").graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weight = sources.vqgan.model.decoder.conv_in.weight.detach().half().numpy()
    (name,) = (
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast"
        and node.input[0].endswith("/half")
        and stored[node.input[0]].shape == weight.shape
        and np.array_equal(stored[node.input[0]], weight)
    )
    assert any(name in node.input for node in graph.node if node.op_type == "Conv")
    assert not any(
        tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4 and np.prod(tensor.dims) > 256
        for tensor in graph.initializer
    )


def test_without_being_asked_no_weight_is_rounded(tmp_path, sources):
    graph = onnx.load(exported(tmp_path / "whole") / "decoder.onnx").graph
    assert all(tensor.data_type != onnx.TensorProto.FLOAT16 for tensor in graph.initializer)


def test_rounding_that_changes_too_much_is_refused(tmp_path, sources, monkeypatch):
    strict = Tolerance(logits=0, proposals=0, pixels=-1, codes=0)
    monkeypatch.setattr(making, "ROUNDED", replace(ROUNDED, tolerance=strict))
    with pytest.raises(BundleError, match=r"differs from PyTorch by .* --half-weights$"):
        exported(tmp_path / "half", half_weights=True)
    assert not (tmp_path / "half").exists()


def test_a_weight_that_halves_cannot_hold_is_named(tmp_path, sources):
    sources.vqgan.model.decoder.conv_in.weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(InputError, match=r"decoder\.conv_in\.weight does not fit into fp16.*leave out --half-weights"):
        exported(tmp_path / "half", half_weights=True)


@pytest.fixture(scope="module")
def halves_and_same(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prior over pixels that is stored in 16 bits, and its rounded weights stored in 32."""
    torch.manual_seed(0)
    prior = HourglassPrior(HourglassConfig(256, (8, 8), depth=(1, 1, 1), dims=(64,), heads=(1,))).eval()
    folder, bundles = tmp_path_factory.mktemp("bundles"), []
    for name, model in (("halves", prior), ("same", rounded(prior))):
        found = Sources(PriorHalf(model), VQGANHalf(GreyPixels(GreyPixelsConfig(8))))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "from_checkpoints", lambda *_, found=found, **__: found)
            options = {"half_weights": True, "logits": True} if name == "halves" else {}
            bundles.append(exported(folder / name, variants=("fp32", "int8"), **options))
    return bundles[0], bundles[1]


def test_the_file_of_a_prior_halves_and_both_its_precisions_read_it(halves_and_same):
    halves, same = halves_and_same
    assert (halves / "denoiser.onnx.data").stat().st_size < 0.6 * (same / "denoiser.onnx.data").stat().st_size
    manifest = Bundle.open(halves).manifest
    assert {file.data.file for file in manifest.graphs["denoiser"].values()} == {"denoiser.onnx.data"}
    checks = manifest.checks
    assert checks["denoiser"]["weights"] == checks["logits"]["weights"] == "fp16"
    limit = ROUNDED.tolerance.logits * max(checks["denoiser"]["logits_largest"], 1)
    assert 0 < checks["denoiser"]["logits_max_difference"] <= limit


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_prior_of_halves_draws_the_codes_of_its_rounded_weights(halves_and_same, backend, variant):
    if backend == "openvino":
        pytest.importorskip("openvino")
    drawn = []
    for bundle in halves_and_same:
        with sundae_rt.load(bundle, backend=backend, variant=variant) as runtime:
            drawn.append(np.stack([sample.codes for sample in runtime.generate(n=3, steps=4)]))
    np.testing.assert_array_equal(*drawn)


def test_codes_that_are_pixels_have_no_weights_to_store_so(halves_and_same):
    checks = Bundle.open(halves_and_same[0]).manifest.checks
    assert "weights" not in checks["decoder"] | checks["encoder"]
