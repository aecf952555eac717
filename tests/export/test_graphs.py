"""The denoiser's arithmetic, in PyTorch and in the graph: inverse CDF, greedy, update, confidence, guidance."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from sundae_rt.errors import BundleError  # noqa: E402
from sundae_rt.export import checks  # noqa: E402
from sundae_rt.export.conversion import OPSET, drop_output, to_onnx  # noqa: E402
from sundae_rt.export.graphs import Denoiser, LabelledDenoiser, _decide  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402

LABELLED = HourglassConfig(11, (4, 4), (1, 1, 1), (16,), (1,), labels=3, null_label=True)


def decide(probabilities, uniform, temperature=1.0, code=0, update=True):
    logits = torch.tensor(probabilities).log()[None, None]
    new, proposal, confidence, _ = _decide(
        logits,
        torch.tensor([[code]], dtype=torch.int32),
        torch.tensor([temperature]),
        torch.tensor([[uniform]]),
        torch.tensor([[update]]),
    )
    return int(new), int(proposal), float(confidence)


@pytest.mark.parametrize(
    ("uniform", "code"), [(0.0, 0), (0.24, 0), (0.26, 1), (0.74, 1), (0.76, 2), (0.9999999, 2), (1.0, 2)]
)
def test_a_proposal_is_the_first_index_whose_cumulated_probability_passes_uniform(uniform, code):
    assert decide([0.25, 0.5, 0.25], uniform)[1] == code


def test_codes_of_no_probability_are_never_drawn():
    assert decide([0.0, 1.0, 0.0], 0.0)[1] == 1
    assert decide([0.0, 1.0, 0.0], 0.99)[1] == 1


def test_temperature_zero_is_argmax_whatever_uniform_says():
    assert decide([0.2, 0.3, 0.5], 0.0, temperature=0.0)[1] == 2


def test_a_tiny_temperature_is_nearly_argmax_and_never_nan():
    assert decide([0.2, 0.3, 0.5], 0.9, temperature=1e-6)[1] == 2


def test_a_low_temperature_sharpens():
    # At temperature 1/2 the probabilities .4 and .6 become .16/.52 and .36/.52.
    assert decide([0.4, 0.6], 0.32, temperature=0.5)[1] == 1
    assert decide([0.4, 0.6], 0.32, temperature=1.0)[1] == 0


def test_codes_change_only_where_they_may():
    assert decide([0.0, 1.0], 0.5, code=0, update=False)[:2] == (0, 1)


def test_confidence_is_the_probability_of_the_incoming_code_at_temperature_one():
    assert decide([0.25, 0.75], 0.5, temperature=0.1, code=0)[2] == pytest.approx(0.25)


def test_a_mask_comes_in_with_no_confidence():
    assert decide([0.25, 0.75], 0.5, code=2) == (1, 1, 0.0)
    assert decide([0.25, 0.75], 0.5, code=2, update=False) == (2, 1, 0.0)


def test_the_codes_that_a_graph_is_checked_on_are_masked_more_and_more():
    generator = torch.Generator().manual_seed(0)
    codes = checks.example_codes((3, 200), 7, 8, generator)
    assert (codes == 7).float().mean(1).tolist() == pytest.approx([1 / 3, 2 / 3, 1], abs=0.1)
    assert codes.dtype == torch.int32
    assert checks.example_codes((3, 200), 7, 7, generator).max() == 6


def prior(config):
    torch.manual_seed(0)
    model = HourglassPrior(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def inputs(rows, guidance):
    generator = torch.Generator().manual_seed(1)
    return {
        "codes": torch.randint(11, (rows, 16), generator=generator, dtype=torch.int32),
        "temperature": torch.linspace(0, 1, rows),
        "uniform": torch.rand(rows, 16, generator=generator),
        "update": torch.rand(rows, 16, generator=generator) < 0.5,
        "label": torch.arange(rows, dtype=torch.int32) % 3,
        "guidance": torch.tensor(guidance),
    }


@pytest.fixture(scope="module")
def exported():
    module = LabelledDenoiser(prior(LABELLED)).eval()
    return module, to_onnx(module, inputs(3, [1.0, 2.0, 0.0]), ["new_codes", "proposal", "confidence", "logits"])


@pytest.mark.parametrize("guidance", [[1.0], [2.0], [1.0, 1.0], [3.0, 0.0, 1.0, 1.5, 1.0]])
def test_the_graph_does_what_pytorch_does_at_any_batch_and_guidance(exported, guidance):
    module, model = exported
    batch = inputs(len(guidance), guidance)
    assert checks.check_denoiser(model, module, batch)["equal_proposals"] == 1


def test_guidance_moves_the_logits_from_the_null_label_along_the_labels_direction(exported):
    module, _ = exported
    model = module.prior
    batch = inputs(2, [2.5, 0.0])
    with torch.no_grad():
        logits = module(*batch.values())[3]
        labelled, null = model(batch["codes"], batch["label"]), model(batch["codes"], torch.tensor([3, 3]))
    assert torch.allclose(logits[0], null[0] + 2.5 * (labelled[0] - null[0]), atol=1e-4)
    assert torch.allclose(logits[1], null[1], atol=1e-4)


def test_an_unlabelled_denoiser_takes_no_label():
    config = HourglassConfig(11, (4, 4), (1, 1, 1), (16,), (1,))
    batch = {name: tensor for name, tensor in inputs(2, [1.0, 1.0]).items() if name not in ("label", "guidance")}
    module = Denoiser(prior(config)).eval()
    model = to_onnx(module, batch, ["new_codes", "proposal", "confidence", "logits"])
    assert [entry.name for entry in model.graph.input] == ["codes", "temperature", "uniform", "update"]
    assert checks.check_denoiser(model, module, batch)["equal_proposals"] == 1


def test_a_graph_tells_nothing_of_the_machine_that_made_it(exported):
    _, model = exported
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    data = model.SerializeToString()
    assert b".py" not in data and b"site-packages" not in data


def test_no_tensor_is_in_a_graph_twice(exported):
    _, model = exported
    tensors = [(tensor.data_type, *tensor.dims, tensor.raw_data) for tensor in model.graph.initializer]
    assert len(tensors) > 20 and len(set(tensors)) == len(tensors)


def test_dropping_an_output_leaves_the_others(exported):
    _, original = exported
    model = type(original)()
    model.CopyFrom(original)
    drop_output(model, "logits")
    found = checks.run_onnx(model, inputs(2, [1.0, 1.0]))
    assert len(found) == 3
    assert np.array_equal(found[0], checks.run_onnx(original, inputs(2, [1.0, 1.0]))[0])


@pytest.mark.parametrize(("vocabulary", "passes"), [(512, False), (8192, True)])
def test_more_codes_have_more_borders_that_a_uniform_may_fall_on(
    vocabulary: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = np.zeros((4, 1000), np.int32)
    other = proposal.copy()
    other[:, :4] = 1  # 0.4 % of the draws
    rest = [np.zeros((4, 1000), np.float32), np.zeros((4, 1000, vocabulary), np.float32)]
    monkeypatch.setattr(checks, "run_onnx", lambda *_: [other, other, *rest])

    def module(codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.from_numpy, (proposal, proposal, *rest)))

    if passes:
        assert checks.check_denoiser(None, module, {"codes": torch.zeros(4)})["equal_proposals"] == 0.996
    else:
        with pytest.raises(BundleError, match=r"99\.60% equal, 99\.90% needed"):
            checks.check_denoiser(None, module, {"codes": torch.zeros(4)})
