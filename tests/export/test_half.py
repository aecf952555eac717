"""Models in 16 bits: what stays in fp32, how far from fp32 they are, and what a bundle says of them."""

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
from sundae_rt.export import checks, export_checkpoint  # noqa: E402
from sundae_rt.export.conversion import to_onnx  # noqa: E402
from sundae_rt.export.graphs import Decoder, Encoder, LabelledDenoiser  # noqa: E402
from sundae_rt.export.half import halved  # noqa: E402
from sundae_rt.export.variants import VARIANTS, Tolerance, widened  # noqa: E402
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig  # noqa: E402

KINDS = {"fp16": (torch.float16, TensorProto.FLOAT16), "bf16": (torch.bfloat16, TensorProto.BFLOAT16)}
LOOSE = Tolerance(logits=0.05, proposals=0.8, pixels=64, codes=0.5)


def prior():
    torch.manual_seed(0)
    model = HourglassPrior(HourglassConfig(11, (4, 4), (1, 1, 1), (32,), (1,), labels=3, null_label=True)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def vqgan():
    torch.manual_seed(0)
    sizes = VQGANConfig(16, 8, (1, 2), 1, latent_channels=8, code_dim=4, codebook_size=16, norm_groups=4)
    model = VQGAN(sizes).eval()
    nn.init.normal_(model.quantize.embedding.weight)
    return model


def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "codes": torch.randint(11, (3, 16), generator=generator, dtype=torch.int32),
        "temperature": torch.tensor([0.0, 0.7, 1.0]),
        "uniform": torch.rand(3, 16, generator=generator),
        "update": torch.rand(3, 16, generator=generator) < 0.5,
        "label": torch.arange(3, dtype=torch.int32),
        "guidance": torch.tensor([1.0, 2.0, 1.0]),
    }


def types_of(model, operator):
    """The element types of the first inputs of all nodes of an operator."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    known |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {known[node.input[0]] for node in inferred.node if node.op_type == operator}


@pytest.fixture(scope="module", params=[*KINDS])
def denoiser(request):
    dtype, kind = KINDS[request.param]
    model = to_onnx(
        LabelledDenoiser(halved(prior(), dtype)).eval(), inputs(), ["new_codes", "proposal", "confidence", "logits"]
    )
    return request.param, kind, model


def test_products_are_in_16_bits_and_what_overflows_is_in_fp32(denoiser):
    _, kind, model = denoiser
    assert types_of(model, "MatMul") == {kind}
    for operator in ("LayerNormalization", "Softmax", "CumSum"):
        assert types_of(model, operator) == {TensorProto.FLOAT}
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2 and np.prod(tensor.dims) > 64]
    assert weights and {tensor.data_type for tensor in weights} == {kind}


def test_codes_and_confidence_come_out_as_from_any_variant_and_are_close(denoiser):
    name, _, model = denoiser
    reference = LabelledDenoiser(prior()).eval()
    figures = checks.check_denoiser(VARIANTS[name].checkable(model), reference, inputs(), None, LOOSE)
    assert figures["logits_max_difference"] > 0
    kinds = [output.type.tensor_type.elem_type for output in model.graph.output]
    assert kinds == [TensorProto.INT32, TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT]


@pytest.mark.parametrize("name", [*KINDS])
def test_a_vqgan_in_16_bits_is_close(name):
    full, half = vqgan(), halved(vqgan(), KINDS[name][0])
    codes = torch.randint(16, (2, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    model = to_onnx(Decoder(half, (8, 8)).eval(), {"codes": codes}, ["images"])
    images = Decoder(full, (8, 8)).eval()(codes)
    checks.check_decoder(VARIANTS[name].checkable(model), images, {"codes": codes}, None, LOOSE)
    assert types_of(model, "Conv") == {KINDS[name][1]}
    model = to_onnx(Encoder(half).eval(), {"images": images}, ["codes"])
    checks.check_encoder(VARIANTS[name].checkable(model), Encoder(full).eval(), {"images": images}, None, LOOSE)


def test_the_model_that_is_halved_stays_as_it_is():
    model = prior()
    halved(model, torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(type(module).__name__ == "_InFloat" for module in model.modules())


def test_a_weight_that_does_not_fit_is_refused_by_name():
    model = prior()
    model.to_logits.weight.data[0, 0] = 1e5
    with pytest.raises(InputError, match=r"^to_logits\.weight does not fit into torch\.float16, which ends at 65504"):
        halved(model, torch.float16)
    halved(model, torch.bfloat16)


def test_pixels_as_codes_have_nothing_to_halve():
    pixels = GreyPixels(GreyPixelsConfig(8))
    assert halved(pixels, torch.float16) is pixels


def test_a_widened_graph_has_no_16_bits_left(denoiser):
    name, _, model = denoiser
    if name == "bf16":
        wide = widened(model)
        assert types_of(wide, "MatMul") == {TensorProto.FLOAT}
        assert not [tensor for tensor in wide.graph.initializer if tensor.data_type == TensorProto.BFLOAT16]


def test_a_bundle_says_what_its_halves_require_and_no_cpu_takes_them(tmp_path):
    preset = tmp_path / "tiny.toml"
    preset.write_text('extends = "toy"\n[prior]\nlatent_grid = [8, 8]\ndepth = [1, 1, 1]\n')
    said = []
    export_checkpoint(
        preset=str(preset), random_weights=True, out=tmp_path / "out", variants=("fp16", "fp32"), say=said.append
    )
    manifest = Bundle.open(tmp_path / "out").manifest
    for graph in ("denoiser", "decoder", "encoder"):
        assert [*manifest.graphs[graph]] == ["fp32", "fp16"]
        assert manifest.graphs[graph]["fp16"].file == f"{graph}-fp16.onnx"
        assert manifest.graphs[graph]["fp16"].requires == ("half",)
        assert {graph, f"{graph}-fp16"} <= manifest.checks.keys()
    assert sum(line.startswith("denoiser-fp16: logits max difference") for line in said) == 1
    with sundae_rt.load(tmp_path / "out", backend="cpu") as runtime:
        assert runtime.variant == "fp32"
    with pytest.raises(sundae_rt.BackendError, match=r"'cpu' does not provide half, which the variant fp16"):
        sundae_rt.load(tmp_path / "out", backend="cpu", variant="fp16")
