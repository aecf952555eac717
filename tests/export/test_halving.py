"""Models in 16 bits: what stays in fp32, how far from fp32 they are, and what a bundle says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import TensorProto  # noqa: E402
from torch import nn  # noqa: E402

import sundae_rt  # noqa: E402
from sundae_rt.bundle import Bundle  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.halves import PriorHalf, VQGANHalf  # noqa: E402
from sundae_rt.export.halving import halved  # noqa: E402
from sundae_rt.export.running import widened  # noqa: E402
from sundae_rt.export.sources import Sources  # noqa: E402
from sundae_rt.tensorrt.building import PORTABLE, build  # noqa: E402
from sundae_rt.tensorrt.opening import open_library  # noqa: E402
from sundae_rt.tensorrt.profiles import Profile  # noqa: E402
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig  # noqa: E402

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
GRAPHS = ("denoiser", "decoder", "encoder")


def prior() -> HourglassPrior:
    torch.manual_seed(0)
    model = HourglassPrior(HourglassConfig(11, (8, 8), (1, 1, 1), (32,), (1,), labels=3, null_label=True)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def vqgan() -> VQGAN:
    torch.manual_seed(0)
    sizes = VQGANConfig(16, 8, (1, 2), 1, latent_channels=8, code_dim=4, codebook_size=16, norm_groups=4)
    model = VQGAN(sizes).eval()
    nn.init.normal_(model.quantize.embedding.weight)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A bundle in fp32 and both halves, as far from PyTorch as is allowed at most, and what its export said."""
    out, said = tmp_path_factory.mktemp("bundles") / "halves", []
    sources = Sources(PriorHalf(prior(), ("coast", "desert", "ice")), VQGANHalf(vqgan()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "from_checkpoints", lambda *_, **__: sources)
        export_checkpoint(Path("prior.pt"), out=out, variants=("bf16", "fp16", "fp32"), say=said.append)
    return out, said


def types_of(model: onnx.ModelProto, operator: str) -> set[int]:
    """The element types of the first inputs of all nodes of an operator."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    known |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {known[node.input[0]] for node in inferred.node if node.op_type == operator}


@pytest.mark.parametrize("name", [*KINDS])
def test_products_are_in_16_bits_and_what_overflows_is_in_fp32(made: tuple[Path, list[str]], name: str) -> None:
    model = onnx.load(made[0] / f"denoiser-{name}.onnx")
    assert types_of(model, "MatMul") == {KINDS[name]}
    for operator in ("LayerNormalization", "Softmax", "CumSum"):
        assert types_of(model, operator) == {TensorProto.FLOAT}
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2 and np.prod(tensor.dims) > 64]
    assert weights and {tensor.data_type for tensor in weights} == {KINDS[name]}
    for graph in ("decoder", "encoder"):
        model = onnx.load(made[0] / f"{graph}-{name}.onnx")
        assert types_of(model, "Conv") == {KINDS[name]}
        assert types_of(model, "InstanceNormalization") == {TensorProto.FLOAT}


@pytest.mark.parametrize("name", [*KINDS])
def test_what_comes_out_is_of_the_same_types_as_from_fp32(made: tuple[Path, list[str]], name: str) -> None:
    for graph in GRAPHS:
        half, full = (onnx.load(made[0] / f"{graph}{suffix}.onnx").graph for suffix in (f"-{name}", ""))
        assert [*half.input] == [*full.input]
        outputs = [[(value.name, value.type.tensor_type.elem_type) for value in one.output] for one in (half, full)]
        assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", [*KINDS])
def test_how_far_a_half_is_from_fp32_stands_in_the_manifest(made: tuple[Path, list[str]], name: str) -> None:
    checks = Bundle.open(made[0]).manifest.checks
    for graph in GRAPHS:
        assert checks["variants"][name][graph].keys() == checks[graph].keys()
    figures, limit = checks["variants"][name]["denoiser"], {"fp16": 0.03, "bf16": 0.2}[name]
    assert 0 < figures["logits_max_difference"] <= limit * figures["logits_largest"]
    assert figures["equal_proposals"] > 0.8
    assert sum(line.startswith(f"denoiser-{name}: logits max difference") for line in made[1]) == 1


def test_a_bundle_says_what_its_halves_require_and_no_cpu_takes_them(made: tuple[Path, list[str]]) -> None:
    manifest = Bundle.open(made[0]).manifest
    for graph in GRAPHS:
        assert [*manifest.graphs[graph]] == ["fp32", "fp16", "bf16"]
        assert manifest.graphs[graph]["fp16"].file == f"{graph}-fp16.onnx"
        assert manifest.graphs[graph]["fp16"].requires == manifest.graphs[graph]["bf16"].requires == ("half",)
    with sundae_rt.load(made[0], backend="cpu") as runtime:
        assert runtime.variant == "fp32"
    with pytest.raises(sundae_rt.BackendError, match=r"'cpu' does not provide half, which the variant fp16"):
        sundae_rt.load(made[0], backend="cpu", variant="fp16")


@pytest.mark.parametrize("name", ["fp32", *KINDS])
def test_every_graph_becomes_an_engine(made: tuple[Path, list[str]], name: str) -> None:
    """Without a GPU. Images come in as uint8, and rows with guidance are told by the host."""
    pytest.importorskip("tensorrt_rtx", reason="engines are built with tensorrt-rtx")
    library, bundle = open_library(), Bundle.open(made[0])
    if not library.builds_anywhere:
        pytest.skip("the full TensorRT is installed, which builds only where there is a GPU")
    for graph in GRAPHS:
        model = bundle.read(graph, name)
        assert len(build(library, model, graph, (Profile(1, 4, 4),), capability=PORTABLE)) > len(model) / 4


def test_the_model_that_is_halved_stays_as_it_is() -> None:
    model = prior()
    halved(model, torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(type(module).__name__ == "_InFloat" for module in model.modules())


def test_a_weight_that_does_not_fit_is_refused_by_name() -> None:
    model = prior()
    model.to_logits.weight.data[0, 0] = 1e5
    with pytest.raises(InputError, match=r"^to_logits\.weight does not fit into torch\.float16, which ends at 65504"):
        halved(model, torch.float16)
    halved(model, torch.bfloat16)


def test_pixels_as_codes_have_nothing_to_halve() -> None:
    pixels = GreyPixels(GreyPixelsConfig(8))
    assert halved(pixels, torch.float16) is pixels


def test_a_widened_graph_has_no_16_bits_left(made: tuple[Path, list[str]]) -> None:
    wide = widened(onnx.load(made[0] / "denoiser-bf16.onnx"))
    assert types_of(wide, "MatMul") == {TensorProto.FLOAT}
    assert not [tensor for tensor in wide.graph.initializer if tensor.data_type == TensorProto.BFLOAT16]
