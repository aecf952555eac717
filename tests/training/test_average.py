"""The mean of two checkpoints: of one training, after its codes are final, or refused."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from click.testing import CliRunner  # noqa: E402

from sundae_rt.training import average, checkpoint, encoding  # noqa: E402
from tests.vqgans import random_vqgan  # noqa: E402


def written(path, steps, scale=1.0, codes=1.0, **sizes):
    model = random_vqgan(**sizes)
    weights = {
        name: tensor * (scale if name.startswith("decoder.") else 1) for name, tensor in model.state_dict().items()
    }
    weights["quantize.embedding.weight"] = weights["quantize.embedding.weight"] * codes
    config = dataclasses.asdict(model.config)
    values = {"format_version": 1, "kind": "vqgan", "config": config, "weights": weights}
    checkpoint.save(path, values | {"provenance": {"steps": steps, "preset": "p"}})
    return path


def averaged(*arguments):
    return CliRunner().invoke(average.main, [str(argument) for argument in arguments])


def test_weights_are_halfway_and_what_they_say_is_the_later_ones(tmp_path):
    early, late = written(tmp_path / "a.pt", 10), written(tmp_path / "b.pt", 20, scale=3.0)
    result = averaged(early, late, "--out", tmp_path / "new" / "c.pt")
    assert (result.exit_code, result.output) == (0, f"wrote {tmp_path / 'new' / 'c.pt'}\n")
    first, mean = (checkpoint.load(path, "vqgan") for path in (early, tmp_path / "new" / "c.pt"))
    for name, tensor in mean["weights"].items():
        expected = first["weights"][name] * (2 if name.startswith("decoder.") else 1)
        torch.testing.assert_close(tensor, expected)
    assert mean["provenance"] == {"steps": 20, "preset": "p", "average_with_step": 10}
    before, after = encoding.load_vqgan(early), encoding.load_vqgan(tmp_path / "new" / "c.pt")
    assert checkpoint.tensor_hash(before.codes_parameters()) == checkpoint.tensor_hash(after.codes_parameters())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"codes": 2.0}, "have other codes: average what was trained after the codes were final"),
        ({"channels": 32}, "have other sizes: average two checkpoints of one training"),
    ],
)
def test_what_has_no_mean_is_refused_and_nothing_written(tmp_path, other, told):
    early, late = written(tmp_path / "a.pt", 10), written(tmp_path / "b.pt", 20, **other)
    result = averaged(early, late, "--out", tmp_path / "c.pt")
    assert result.exit_code == 1 and told in result.output
    assert not (tmp_path / "c.pt").exists()


def test_weights_that_are_not_those_of_the_config_have_no_mean(tmp_path):
    early, late = written(tmp_path / "a.pt", 10), written(tmp_path / "b.pt", 20)
    values = checkpoint.read(late)
    name = "decoder.conv_out.bias"
    for changed, told in (
        ({k: v for k, v in values["weights"].items() if k != name}, f"missing weights {name};"),
        (values["weights"] | {name: values["weights"][name] * float("nan")}, f"{name} holds values that are no finite"),
    ):
        checkpoint.save(late, values | {"weights": changed})
        for pair in ((early, late), (late, early)):
            result = averaged(*pair, "--out", tmp_path / "c.pt")
            assert result.exit_code == 1 and told in result.output and "b.pt" in result.output
            assert not (tmp_path / "c.pt").exists()


def test_an_earlier_file_is_not_overwritten(tmp_path):
    early = written(tmp_path / "a.pt", 10)
    result = averaged(early, early, "--out", early)
    assert result.exit_code == 1 and "exists: name another file" in result.output
