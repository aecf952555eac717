"""A decoder in 8 bits: which convolutions take them, how near its pictures stay, and what they depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402

import sundae_rt  # noqa: E402
from sundae_rt.backends import onnxruntime, open_backend  # noqa: E402
from sundae_rt.bundle import Bundle  # noqa: E402
from sundae_rt.choice import choose_variant  # noqa: E402
from sundae_rt.errors import BackendError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import export_checkpoint, making, pricing, variants  # noqa: E402
from sundae_rt.export.convolutions import channel_ranges, convolved, scale_and_zero  # noqa: E402
from sundae_rt.export.halves import PriorHalf, VQGANHalf  # noqa: E402
from sundae_rt.export.running import opened  # noqa: E402
from sundae_rt.export.sources import Sources  # noqa: E402
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN  # noqa: E402
from tests.fakes import FakeBackend  # noqa: E402
from tests.vqgans import random_vqgan  # noqa: E402

GRID, VOCABULARY = (8, 8), 19


def opened_backend(name: str, variant: str = "int8") -> None:
    """Skips where a backend is not there, has no such variant here, or would not run an 8-bit decoder exactly."""
    try:
        backend = open_backend(name, 2)
    except BackendError:
        pytest.skip(f"{name} is not there")
    if "uint8" not in backend.provides:
        pytest.skip("this processor has no instructions for exact products of unsigned bytes")
    if variant not in ("int8", *backend.derives):
        pytest.skip(f"on this processor {name} does not make {variant}")


def vqgan() -> VQGAN:
    """With attention, shortcuts, an upsampling and texture: all kinds of layers that a decoder has."""
    return random_vqgan(channels=16, norm_groups=4, attention_resolutions=(8,), texture=True)


def prior(vocabulary: int = VOCABULARY) -> HourglassPrior:
    torch.manual_seed(0)
    return HourglassPrior(HourglassConfig(vocabulary, GRID, depth=(1, 1, 1), dims=(32,), heads=(1,))).eval()


def exported(out: Path, sources: Sources | None = None, **options: object) -> Path:
    sources = sources or Sources(PriorHalf(prior()), VQGANHalf(vqgan()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "from_checkpoints", lambda *_, **__: sources)
        lines: list[str] = []
        export_checkpoint(Path("p.pt"), out=out, variants=("fp32", "int8"), say=lines.append, **options)
    (out.parent / f"{out.name}.log").write_text("\n".join(lines))
    return out


@pytest.fixture(scope="module", params=[False, True], ids=["weights as they are", "stored as halves"])
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return exported(tmp_path_factory.mktemp("bundles") / "both", half_weights=request.param)


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(7).integers(0, VOCABULARY, (5, *GRID), np.int32)


def test_all_convolutions_but_the_last_and_those_of_one_pixel_take_8_bits_and_put_them_out(made: Path) -> None:
    graph = onnx.load(made / "decoder-int8.onnx").graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    rounded = [node for node in convolutions if getattr(makers.get(node.input[1]), "op_type", "") == "DequantizeLinear"]
    kernels = [layer.kernel_size for layer in vqgan().decoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == len(kernels) + 1  # and the one behind the codebook, of one pixel
    assert len(rounded) == kernels.count((3, 3)) - 1 > 10 and convolutions[-1] not in rounded
    for node in rounded:
        source, weight, bias = (makers[name] for name in node.input)
        assert {source.op_type, weight.op_type, bias.op_type} == {"DequantizeLinear"}
        assert makers[source.input[0]].op_type == readers[node.output[0]].op_type == "QuantizeLinear"
        assert tensors[source.input[2]].dtype == np.uint8 and tensors[source.input[1]].shape == ()
        assert tensors[weight.input[0]].dtype == np.int8 and tensors[bias.input[0]].dtype == np.int32
        outward = readers[readers[node.output[0]].output[0]]
        assert tensors[outward.input[1]].shape == (len(tensors[weight.input[0]]),)  # a scale for each channel


def test_the_file_holds_a_byte_a_weight_and_what_it_needs_no_more_is_gone(made: Path) -> None:
    graph = onnx.load(made / "decoder-int8.onnx").graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
    layers = [layer for layer in vqgan().decoder.modules() if getattr(layer, "kernel_size", None) == (3, 3)]
    weights = sum(layer.weight.numel() for layer in layers[:-1])
    held = sum(tensor.ByteSize() for tensor in graph.initializer if tensor.name.endswith("/whole"))
    assert weights < held < 1.3 * weights
    assert Bundle.open(made).manifest.graphs["decoder"]["int8"].data is None


@pytest.mark.parametrize(("backend", "variant"), [("cpu", "int8"), ("openvino", "int8"), ("openvino", "int8-bf16")])
def test_its_pictures_are_near_those_of_fp32(made: Path, codes: np.ndarray, backend: str, variant: str) -> None:
    opened_backend(backend, variant)
    with (
        sundae_rt.load(made, backend=backend, variant=variant, threads=2) as int8,
        sundae_rt.load(made, backend=backend, variant="fp32", threads=2) as fp32,
    ):
        found, wanted = int8.decode(codes).astype(int), fp32.decode(codes).astype(int)
    error = np.square(found - wanted).mean()
    assert 0 < error < 255**2 / 10**3.2  # 32 dB, of weights that are noise


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_picture_is_the_same_alone_and_in_a_batch(made: Path, codes: np.ndarray, backend: str) -> None:
    opened_backend(backend)
    with sundae_rt.load(made, backend=backend, variant="int8", threads=2) as runtime:
        together = runtime.decode(codes)
        for row in range(len(codes)):
            np.testing.assert_array_equal(runtime.decode(codes[row : row + 1])[0], together[row])


def test_what_it_costs_is_printed_and_stands_in_the_manifest(made: Path) -> None:
    price = Bundle.open(made).manifest.checks["variants"]["int8"]["decoder"]
    assert price["measured_on"] == "8 samples of the model's own, for want of real codes"
    assert price["images"] == 8
    assert pricing.LEAST_PSNR < price["psnr_least"] <= price["psnr"] < 60
    assert 0 < price["pixels_mean_difference"] < 8
    told = (made.parent / f"{made.name}.log").read_text()
    assert f"decoder-int8, 8 images of the same codes: PSNR {price['psnr']:.1f} dB" in told


def test_a_decoder_that_is_too_coarse_is_left_out_and_a_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: np.ndarray
) -> None:
    monkeypatch.setattr(pricing, "LEAST_PSNR", 70.0)
    out = exported(tmp_path / "bundle")
    manifest = Bundle.open(out).manifest
    assert (set(manifest.graphs["denoiser"]), set(manifest.graphs["decoder"])) == ({"fp32", "int8"}, {"fp32"})
    assert not (out / "decoder-int8.onnx").exists()
    price = manifest.checks["variants"]["int8"]["decoder"]
    fault = f"the pixels of one image reach {price['psnr_least']:.1f} dB beside fp32's, 70 needed"
    assert price["left_out"] == fault
    told = (tmp_path / "bundle.log").read_text().splitlines()
    assert f"decoder-int8 is left out: {fault}; beside int8 it runs in another variant" in told
    with (
        sundae_rt.load(out, backend="cpu", variant="int8") as int8,
        sundae_rt.load(out, backend="cpu", variant="fp32") as fp32,
    ):
        assert int8.variant == "int8"
        np.testing.assert_array_equal(int8.decode(codes), fp32.decode(codes))


def test_equal_pictures_have_no_decibels_and_unequal_ones_the_right_number() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    grey = black + np.array([0, 51], np.uint8)[:, None, None, None]
    same = pricing.decoder_price(lambda _: {"images": black}, lambda _: {"images": black}, [{}], "zeros")
    assert same["psnr"] is same["psnr_least"] is None and same["pixels_mean_difference"] == 0
    assert pricing.decoder_fault(same) is None
    assert "PSNR equal" in pricing.decoder_line("int8", same)
    price = pricing.decoder_price(lambda _: {"images": black}, lambda _: {"images": grey}, [{}, {}], "zeros")
    assert price["images"] == 4 and price["pixels_mean_difference"] == pytest.approx(25.5)
    assert price["psnr_least"] == pytest.approx(20 * np.log10(5))
    assert price["psnr"] == pytest.approx(20 * np.log10(5) + 10 * np.log10(2))
    assert pricing.decoder_fault(price) == "the pixels of one image reach 14.0 dB beside fp32's, 25 needed"


def test_large_pictures_are_calibrated_on_eight_and_measured_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "REWRITTEN_PIXELS", 16 * 16 + 1)
    seen: list[int] = []

    def noted(model: object, batches: object, folder: Path) -> object:
        batches = list(batches)
        seen.extend(len(batch["codes"]) for batch in batches)
        return convolved(model, batches, folder)

    monkeypatch.setitem(variants.VARIANTS, "int8", replace(variants.VARIANTS["int8"], decoder=noted))
    price = Bundle.open(exported(tmp_path / "bundle")).manifest.checks["variants"]["int8"]["decoder"]
    assert (sum(seen), price["images"]) == (8, 2)


def test_a_backend_without_unsigned_bytes_runs_another_decoder(made: Path) -> None:
    """TensorRT takes no such graph, and x86 without VNNI clips its sums. Asked for int8 they run the denoiser so."""
    manifest = Bundle.open(made).manifest
    assert manifest.graphs["decoder"]["int8"].requires == ("uint8",)
    signed, unsigned = FakeBackend(), FakeBackend()
    assert choose_variant(manifest, "denoiser", signed, "int8").name == "int8"
    assert choose_variant(manifest, "decoder", signed, "int8").name == "fp32"
    vars(unsigned).update(variants=("int8", "fp32"), provides=frozenset({"uint8"}))
    assert choose_variant(manifest, "decoder", unsigned, "auto").name == "int8"


def test_without_instructions_for_it_the_decoder_runs_in_fp32(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "instructions", lambda: frozenset({"avx2"}))
    backend, manifest = open_backend("cpu", 1), Bundle.open(made).manifest
    assert choose_variant(manifest, "decoder", backend, "int8").name == "fp32"
    monkeypatch.setattr(onnxruntime, "instructions", lambda: frozenset({"avx2", "avx512_vnni"}))
    assert choose_variant(manifest, "decoder", open_backend("cpu", 1), "int8").name == "int8"


def test_codes_that_are_pixels_have_no_convolutions(tmp_path: Path) -> None:
    grey = Sources(PriorHalf(prior(256)), VQGANHalf(GreyPixels(GreyPixelsConfig(GRID[0]))))
    graphs = Bundle.open(exported(tmp_path / "grey", grey)).manifest.graphs
    assert [*graphs["denoiser"]] == ["fp32", "int8"] and [*graphs["decoder"]] == ["fp32"]


def test_a_range_covers_all_batches_and_zero() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 22]> g (float[B,2,1,2] x) => (float[B,2,1,2] y) { y = Identity(x) }
    """)
    batches = [
        {"x": np.array([[[[1, 2]], [[-3, -1]]]], np.float32)},
        {"x": np.array([[[[4, 1]], [[-1, -2]]]], np.float32)},
    ]
    low, high = channel_ranges(graph, ["y"], batches, Path())["y"]
    assert low.tolist() == [0, -3] and high.tolist() == [4, 0]
    scale, zero = scale_and_zero(np.array([0, -3, -1, 0], np.float32), np.array([5.1, 0, 1.55, 0], np.float32))
    assert scale.tolist() == pytest.approx([0.02, 3 / 255, 0.01, 1])
    assert zero.tolist() == [0, 255, 100, 0]


def test_a_convolution_without_a_constant_bias_is_rounded_or_left() -> None:
    """An optional bias may be named by nothing; one that is computed stays, and its convolution with it."""
    text = """
        <ir_version: 10, opset_import: ["": 22]>
        g (float[B,1,2,3] x) => (float[B,1,2,2] y)
        <float[1,1,1,2] w = {0.5, 1.0}, float[1,1,1,1] v = {1.0}, float[1] c = {1.0}>
        { d = Neg(c)  h = Conv(x, w, %s)  y = Conv(h, v) }
    """
    x = np.array([[[[0, 1, 9], [2, 3, 9]]]], np.float32)
    for bias, rounds, shift in (("c", True, 1), ("d", False, -1)):
        found = convolved(onnx.parser.parse_model(text % bias), [{"x": x}], Path())
        assert ("QuantizeLinear" in {node.op_type for node in found.graph.node}) is rounds
        wanted = x[..., :2] / 2 + x[..., 1:] + shift
        np.testing.assert_allclose(opened(found, fuses=False)({"x": x})["y"], wanted, atol=0.1)
    bare = onnx.parser.parse_model(text % "c")
    bare.graph.node[1].input[2] = ""
    found = convolved(bare, [{"x": x}], Path())
    assert "QuantizeLinear" in {node.op_type for node in found.graph.node}
    np.testing.assert_allclose(opened(found, fuses=False)({"x": x})["y"], x[..., :2] / 2 + x[..., 1:], atol=0.1)


def test_a_channel_of_nothing_but_its_bias_keeps_it() -> None:
    """Its weights would make steps so fine that no 32-bit bias reaches it."""
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 22]>
        g (float[B,1,2,3] x) => (float[B,1,2,2] y)
        <float[2,1,1,2] w = {1e-12, 0.0, 1.0, 0.0}, float[2] b = {3.0, -1.0}, float[1,2,1,1] v = {1.0, 1.0}>
        { h = Conv(x, w, b)  y = Conv(h, v) }
    """)
    x = np.array([[[[0, 1, 9], [2, 3, 9]]]], np.float32)
    found = convolved(graph, [{"x": x}], Path())
    assert "QuantizeLinear" in {node.op_type for node in found.graph.node}
    np.testing.assert_allclose(opened(found)({"x": x})["y"], x[..., :2] + 2, atol=0.05)


def test_a_decoder_with_nothing_to_round_stays_as_it_is() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 22]> g (float[B,1,2,2] x) => (float[B,1,2,2] y)
        <float[1,1,1,1] w = {2.0}> { h = Conv(x, w)  y = Conv(h, w) }
    """)
    x = np.ones((1, 1, 2, 2), np.float32)
    assert opened(convolved(graph, [{"x": x}], Path()))({"x": x})["y"].tolist() == [[[[4, 4], [4, 4]]]]
