"""Faster variants: what is rounded to 8 bits, what that costs, and what it may not cost: the promise about seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402

import sundae_rt  # noqa: E402
from sundae_rt.bundle import Bundle  # noqa: E402
from sundae_rt.errors import BundleError, InputError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import examples, export_checkpoint, pricing  # noqa: E402
from sundae_rt.export.halves import PriorHalf  # noqa: E402
from sundae_rt.export.quantisation import clipped_scale, column_scales  # noqa: E402
from sundae_rt.export.sources import Pairing, Sources  # noqa: E402
from sundae_rt.tensorrt.building import PORTABLE, build  # noqa: E402
from sundae_rt.tensorrt.opening import open_library  # noqa: E402
from sundae_rt.tensorrt.profiles import Profile  # noqa: E402
from sundae_rt.training.encoding import LatentDataset, write  # noqa: E402
from sundae_rt.training.prior.absorbing import AbsorbingConfig, AbsorbingPrior  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402

GRID, VOCABULARY, LABELS, CODES = (4, 4), 32, ("coast", "desert", "ice"), "c" * 64


def labelled_prior() -> PriorHalf:
    """A small labelled prior with random weights, large enough that its logits are far from equal."""
    torch.manual_seed(0)
    sizes = HourglassConfig(VOCABULARY, GRID, depth=(1, 1, 1), dims=(64,), heads=(1,), labels=3, null_label=True)
    model = HourglassPrior(sizes).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return PriorHalf(model, LABELS, pairing=Pairing(None, CODES))


def masked_prior() -> PriorHalf:
    torch.manual_seed(0)
    model = AbsorbingPrior(AbsorbingConfig(VOCABULARY, GRID, dim=64, heads=2, depth=2)).eval()
    return PriorHalf(model, family="absorbing")


def exported(prior: PriorHalf, out: Path, **options: object) -> tuple[Path, list[str]]:
    """The bundle of a prior in fp32 and int8, and the lines that its export told."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "from_checkpoints", lambda *_, **__: Sources(prior, None))
        export_checkpoint(Path("prior.pt"), out=out, variants=("fp32", "int8"), say=lines.append, **options)
    return out, lines


@pytest.fixture(scope="module")
def codes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sundae-rt encode` would have written of twenty images."""
    path = tmp_path_factory.mktemp("codes") / "codes.safetensors"
    torch.manual_seed(1)
    codes, ids = torch.randint(VOCABULARY, (20, *GRID), dtype=torch.int32), torch.arange(20, dtype=torch.int32) % 3
    write(path, LatentDataset(codes, VOCABULARY, LABELS, ids, None, CODES))
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["weights as they are", "stored as halves"])
def made(
    tmp_path_factory: pytest.TempPathFactory, codes_file: Path, request: pytest.FixtureRequest
) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("bundles") / "both"
    return exported(labelled_prior(), out, calibrate=codes_file, half_weights=request.param)


def test_all_products_but_the_head_take_8_bits_and_the_rest_stays_in_fp32(made: tuple[Path, list[str]]) -> None:
    model = onnx.load(made[0] / "denoiser-int8.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in tensors]
    tensors |= {node.output[0]: tensors[node.input[0]] for node in casts}  # of weights that are stored as halves
    rounded, plain = [], []
    for node in model.graph.node:
        if node.op_type == "MatMul":
            sources = [makers.get(name) for name in node.input]
            both = all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
            (rounded if both else plain).append(node)
    # Three layers of four (query, key and value are one); on the way into the valley linear resampling and a layer of
    # five; on the way out linear resampling, one with the values that the layer there takes, and its other three.
    assert len(rounded) == 3 * 4 + (1 + 5) + (1 + 3)
    constant = [node for node in plain if node.input[1] in tensors]
    assert [tensors[node.input[1]].shape for node in constant] == [(64, VOCABULARY)]
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            value, scale, zero = node.input
            assert tensors[zero].dtype == np.int8 and not tensors[zero].any()
            if value in tensors:  # a weight, each column of which is a block: read fast
                rows, columns = tensors[value].shape
                assert tensors[scale].shape == (1, columns)
                how = {attribute.name: attribute.i for attribute in node.attribute}
                assert (how["axis"], how["block_size"]) == (0, rows)
            else:
                assert tensors[scale].shape == ()
    zeros = [values.shape for values in tensors.values() if values.dtype == np.int8]
    assert len(set(zeros)) == len(zeros)  # one zero point serves all of its size


def test_the_8_bit_denoiser_becomes_an_engine(made: tuple[Path, list[str]]) -> None:
    """With the weights beside it, which it shares, and the rows with guidance, which a host tells."""
    pytest.importorskip("tensorrt_rtx", reason="engines are built with tensorrt-rtx")
    library, bundle = open_library(), Bundle.open(made[0])
    if not library.builds_anywhere:
        pytest.skip("the full TensorRT is installed, which builds only where there is a GPU")
    with bundle.weights("denoiser", "int8") as folder:
        model = bundle.read("denoiser", "int8")
        engine = build(library, model, "denoiser", (Profile(1, 4, 4),), capability=PORTABLE, folder=folder)
    assert len(engine) > len(model) / 2


def test_both_variants_read_their_weights_from_one_file(made: tuple[Path, list[str]]) -> None:
    files = Bundle.open(made[0]).manifest.graphs["denoiser"]
    assert files["fp32"].data == files["int8"].data and files["fp32"].data is not None
    assert sorted(path.name for path in made[0].iterdir()) == [
        "denoiser-int8.onnx",
        "denoiser.onnx",
        "denoiser.onnx.data",
        "manifest.json",
    ]
    weights = sum(tensor.nbytes for tensor in labelled_prior().model.state_dict().values())
    share = 0.5 if Bundle.open(made[0]).manifest.checks["denoiser"].get("weights") == "fp16" else 1
    assert (made[0] / "denoiser.onnx.data").stat().st_size == pytest.approx(share * weights, rel=0.1)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_row_has_the_same_codes_alone_and_in_a_batch_of_five(made: tuple[Path, list[str]], variant: str) -> None:
    with sundae_rt.load(made[0], variant=variant, threads=2) as runtime:
        assert runtime.variant == variant
        rng = np.random.default_rng(0)
        codes = rng.integers(0, VOCABULARY, (5, *GRID))
        uniform, update = rng.random((5, *GRID), np.float32), np.ones((5, *GRID), np.bool_)
        heat, label = np.array([0, 0.5, 1, 1, 0.8]), np.array([0, 1, 2, 0, 1])
        together = runtime.denoise(codes, heat, uniform, update, label=label)
        for row in range(5):
            one = slice(row, row + 1)
            alone = runtime.denoise(codes[one], heat[one], uniform[one], update[one], label=label[one])
            for mixed, own in zip(together, alone, strict=True):
                np.testing.assert_array_equal(mixed[one], own)


def test_the_price_is_printed_and_stands_in_the_manifest(made: tuple[Path, list[str]]) -> None:
    price = Bundle.open(made[0]).manifest.checks["variants"]["int8"]["denoiser"]
    assert price["measured_on"] == "10 grids of codes.safetensors, none of which calibrated it"
    assert [float(rate) for rate in price["rates"]] == [0.25, 0.5, 0.75, 1.0]
    for figures in price["rates"].values():
        assert 0.9 < figures["equal_argmax"] <= 1 and 0.5 < figures["equal_draws"] <= 1
        assert figures["rise"] == pytest.approx(figures["cross_entropy"] / figures["cross_entropy_fp32"] - 1)
        assert figures["rise"] != 0  # 8 bits are not fp32
    assert price["largest_rise"] == max(figures["rise"] for figures in price["rates"].values()) < 0.01
    assert price["frechet"] == "not measured at export: python -m sundae_rt.training.compare"
    assert sum(line.split()[0].endswith("%") for line in made[1]) == 4


def test_the_cross_entropy_is_that_of_the_true_codes() -> None:
    prior, true = labelled_prior(), np.zeros((4, 16), np.int32)
    labels = np.zeros(4, np.int32)
    held = examples.Examples(true, labels, true, labels, true, "zeros")

    def sure(of: int) -> object:
        logits = np.zeros((4, 16, VOCABULARY), np.float32)
        logits[..., of] = 10
        return lambda inputs: {"logits": logits, "proposal": np.full((4, 16), of, np.int32)}

    price = pricing.denoiser_price(sure(0), sure(1), prior, held)
    right = np.log(1 + (VOCABULARY - 1) * np.exp(-10))
    for figures in price["rates"].values():
        assert figures["cross_entropy_fp32"] == pytest.approx(right, rel=1e-4)
        assert figures["cross_entropy"] == pytest.approx(10 + right, rel=1e-4)
        assert figures["equal_argmax"] == figures["equal_draws"] == 0
    with pytest.raises(BundleError, match=r"^the variant int8 is too coarse: at corruption 0.25 .* 1% allowed"):
        pricing.check_price("int8", price)


@pytest.mark.parametrize("rise", [0.0101, float("nan"), float("inf")])
def test_a_variant_over_the_limit_is_refused_in_one_line(rise: float) -> None:
    price = {"rates": {"0.25": {"rise": 0.001}, "0.5": {"rise": rise}}}
    with pytest.raises(BundleError, match=r"at corruption 0.5 .* leave it out of --variants; nothing was written$"):
        pricing.check_price("int8", price)
    price["rates"]["0.5"]["rise"] = 0.0099
    pricing.check_price("int8", price)


def test_nothing_is_written_where_a_variant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "LARGEST_RISE", -1.0)
    with pytest.raises(BundleError, match="too coarse"):
        exported(masked_prior(), tmp_path / "bundle")
    assert not [*tmp_path.iterdir()]


def test_without_codes_the_models_own_samples_serve_and_a_mask_stands_for_corruption(tmp_path: Path) -> None:
    out, _ = exported(masked_prior(), tmp_path / "bundle")
    price = Bundle.open(out).manifest.checks["variants"]["int8"]["denoiser"]
    assert price["measured_on"] == "8 samples of the model's own, for want of real codes"
    with sundae_rt.load(out, variant="int8", threads=1) as runtime:
        assert runtime.variant == "int8"
    codes = examples.corrupted(np.zeros((4, 500), np.int32), 0.25, masked_prior(), np.random.default_rng(0))
    assert set(np.unique(codes)) == {0, VOCABULARY}
    assert (codes == VOCABULARY).mean() == pytest.approx(0.25, abs=0.05)


def test_the_parts_that_calibrate_and_measure_share_no_image(codes_file: Path) -> None:
    prior = labelled_prior()
    seen: list[np.ndarray] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["codes"])
        return {"proposal": np.zeros_like(inputs["codes"])}

    parts = examples.read_examples(codes_file, prior, None, run)
    assert len(parts.calibration) == len(parts.heldout) == 10
    assert not {row.tobytes() for row in parts.calibration} & {row.tobytes() for row in parts.heldout}
    batches = [batch["codes"] for batch in parts.calibration_batches(prior)]
    assert any(np.array_equal(batch, seen[0]) for batch in batches)  # the start of sampling calibrates too
    assert sum(map(len, batches)) > len(parts.calibration)


def test_a_decoder_is_calibrated_on_what_is_not_held_out(codes_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "CALIBRATED", 4)
    monkeypatch.setattr(examples, "MEASURED", 5)
    parts = examples.read_examples(
        codes_file, labelled_prior(), None, lambda inputs: {"proposal": np.zeros_like(inputs["codes"])}
    )
    assert (len(parts.calibration), len(parts.heldout), len(parts.covering)) == (4, 5, 15)
    np.testing.assert_array_equal(parts.covering[:4], parts.calibration)
    assert not {row.tobytes() for row in parts.covering} & {row.tobytes() for row in parts.heldout}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"codes_sha256": "d" * 64}, r"codes of another VQ-GAN \(dddddddddddd; the model's: cccccccccccc\)"),
        ({"codes": torch.zeros(20, 2, 8, dtype=torch.int32)}, r"has grids of \[2, 8\], the prior of \[4, 4\]"),
        ({"codes": torch.full((20, 4, 4), 40, dtype=torch.int32), "vocabulary": 64}, "the code 40, but .* knows 32"),
        ({"labels": ("coast", "sea", "ice")}, r"has the labels \['coast', 'sea', 'ice'\], the prior"),
        ({"labels": None, "label_ids": None}, r"has the labels \[\], the prior"),
        (
            {"codes": torch.zeros(7, 4, 4, dtype=torch.int32), "label_ids": torch.zeros(7, dtype=torch.int32)},
            "holds 7 grids: to calibrate and measure takes 8 or more",
        ),
    ],
)
def test_codes_of_another_model_are_refused(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    ids = torch.zeros(20, dtype=torch.int32)
    values = {"codes": torch.zeros(20, *GRID, dtype=torch.int32), "vocabulary": VOCABULARY, "labels": LABELS}
    values |= {"label_ids": ids, "vqgan_file": None, "codes_sha256": CODES}
    write(tmp_path / "codes.safetensors", LatentDataset(**(values | changes)))
    with pytest.raises(InputError, match=told):
        examples.read_examples(tmp_path / "codes.safetensors", labelled_prior(), None, lambda inputs: {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variants": ("fp32", "int4")}, "unknown variant 'int4': this version exports fp32, int8, fp16, bf16"),
        ({"variants": ("int8",)}, "the variants int8 lack fp32, by which the others are judged"),
        ({"calibrate": Path("c")}, "--calibrate c is for 8-bit variants"),
    ],
)
def test_variants_that_cannot_be_are_refused(options: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        export_checkpoint(Path("prior.pt"), out=tmp_path / "b", **options)


def test_a_scale_clips_what_is_rare_and_far_out_and_nothing_else() -> None:
    even = np.linspace(-1, 1, 1001, dtype=np.float32)
    assert clipped_scale(even, 1.0) == pytest.approx(1 / 127)
    bell = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    assert clipped_scale(bell, 12.0) < 0.5 * 12 / 127
    assert clipped_scale(np.zeros(8, np.float32), 0.0) > 0


def test_each_column_of_a_weight_has_its_own_scale_and_an_empty_one_a_scale_too() -> None:
    weight = np.array([[1, 0, -3], [-2, 0, 0.5]], np.float32)
    assert column_scales(weight).tolist() == pytest.approx([2 / 127, 1, 3 / 127])


def test_weights_that_several_graphs_share_are_not_changed_by_a_variant(made: tuple[Path, list[str]]) -> None:
    fp32, int8 = (onnx.load(made[0] / name) for name in ("denoiser.onnx", "denoiser-int8.onnx"))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    for tensor in fp32.graph.initializer:
        np.testing.assert_array_equal(tensors[tensor.name], numpy_helper.to_array(tensor))


def test_a_prior_that_is_sure_of_everything_costs_nothing_or_too_much() -> None:
    assert pricing._rise(0.0, 0.0) == 0
    assert pricing._rise(0.0, 0.1) == float("inf")
