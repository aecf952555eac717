"""The evaluation of a bundle, on one whose every figure can be worked out by hand.

Its pictures are grids of grey cells, 4 x 4 pixels each, and a cell's code is its grey level / 4, rounded down. Its
denoiser knows three pictures by heart, one for each label, and proposes nothing else. The prior is really trained.
"""

import hashlib
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch", reason="the evaluation looks through PyTorch networks")
onnx = pytest.importorskip("onnx", reason="the graphs of these tests are made with onnx")

import sundae_rt  # noqa: E402
from sundae_rt import engines  # noqa: E402
from sundae_rt.manifest import GraphFile, Manifest  # noqa: E402
from sundae_rt.schedule import MAX_STEPS, Schedule  # noqa: E402
from sundae_rt.training import checkpoint, encoding  # noqa: E402
from sundae_rt.training.data import ImageFolder  # noqa: E402
from sundae_rt.training.earth import evaluate  # noqa: E402
from sundae_rt.training.features import efficientnet_lite0  # noqa: E402
from sundae_rt.training.frechet import features_of, frechet_distance  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.families import build_prior  # noqa: E402

COUNT = 12
CODES = 64
LABELS = ("coast", "desert", "ice")
SHA256 = "c0de" * 16  # of the codec's tensors, if it had any
BRIGHTER = 3  # of 255: the held-out crops than what their codes decode to
OPSET = """<ir_version: 10, opset_import: ["": 22]>"""
ENCODER = f"""{OPSET} encoder (uint8[B,32,32,3] images) => (int32[B,64] codes) {{
    channel = Constant <value = int64[1] {{3}}> ()
    shape = Constant <value = int64[2] {{-1, 64}}> ()
    four = Constant <value = float {{4.0}}> ()
    pixels = Cast <to = 1> (images)
    grey = ReduceMean <keepdims = 0> (pixels, channel)
    one = Constant <value = int64[1] {{1}}> ()
    planes = Unsqueeze (grey, one)
    cells = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (planes)
    levels = Div (cells, four)
    whole = Floor (levels)
    numbers = Cast <to = 6> (whole)
    codes = Reshape (numbers, shape)
}}"""
DECODER = f"""{OPSET} decoder (int32[B,64] codes) => (uint8[B,32,32,3] images) {{
    four = Constant <value = int32 {{4}}> ()
    apart = Constant <value = int64[6] {{-1, 8, 1, 8, 1, 1}}> ()
    wide = Constant <value = int64[6] {{1, 8, 4, 8, 4, 3}}> ()
    shape = Constant <value = int64[4] {{-1, 32, 32, 3}}> ()
    levels = Mul (codes, four)
    cells = Reshape (levels, apart)
    spread = Expand (cells, wide)
    pixels = Reshape (spread, shape)
    images = Cast <to = 2> (pixels)
}}"""
DENOISER = f"""{OPSET} denoiser (
    int32[B,64] codes, float[B] temperature, float[B,64] uniform, bool[B,64] update, int32[B] label, float[B] guidance
) => (int32[B,64] new_codes, int32[B,64] proposal, float[B,64] confidence) <int32[3,64] memory = {{MEMORY}}> {{
    proposal = Gather (memory, label)
    new_codes = Where (update, proposal, codes)
    same = Equal (codes, proposal)
    confidence = Cast <to = 1> (same)
}}"""


def grid(label, start):
    """A label's pattern: every code once."""
    return (start + (2 * label + 1) * np.arange(CODES)) % CODES


def write(folder, label, codes, brighter=0):
    """The picture that decodes from the codes, or a brighter one with the same codes."""
    cells = np.kron(codes.reshape(8, 8) * 4 + brighter, np.ones((4, 4), int)).astype(np.uint8)
    place = folder / LABELS[label]
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([cells] * 3, 2)).save(place / f"{len(list(place.iterdir())):03d}.png")


def write_bundle(folder, **values):
    folder.mkdir(exist_ok=True)
    memory = ", ".join(str(code) for label in range(3) for code in grid(label, 0))
    graphs = {}
    for name, text in {"encoder": ENCODER, "decoder": DECODER, "denoiser": DENOISER}.items():
        graph = onnx.parser.parse_model(text.replace("MEMORY", memory))
        onnx.checker.check_model(graph)
        content = graph.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        graphs[name] = {"fp32": GraphFile(f"{name}.onnx", hashlib.sha256(content).hexdigest())}
    manifest = Manifest("toy", (8, 8), CODES, graphs, (32, 32), labels=LABELS, null_label=True, **values)
    (folder / "manifest.json").write_text(manifest.to_json())


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A bundle, its prior, and folders of crops.

    Of the 12 training crops half have all 64 codes once, and half the lower 32 twice; the 24 held-out ones have the 32
    even codes twice.
    """
    home = tmp_path_factory.mktemp("evaluate")
    for label in range(3):
        for start in (0, 16):
            write(home / "data" / "train", label, grid(label, start))
            write(home / "data" / "train", label, grid(label, start) // 2)
        for start in range(0, CODES, 8):
            write(home / "data" / "heldout", label, grid(label, start) // 2 * 2, BRIGHTER)
    provenance = {"vqgan": {"codes_sha256": SHA256}}
    write_bundle(home / "bundle", provenance=provenance)
    codes = home / "codes.safetensors"
    encoding.encode_folder(home / "data" / "train", codes, bundle=home / "bundle", say=lambda line: None)
    prior = prior_training.train(codes, home / "prior", preset="toy", steps=100, say=lambda line: None)
    provenance |= {"prior": checkpoint.load(prior, "prior")["provenance"], "metrics": {"stale": 1}}
    write_bundle(home / "bundle", provenance=provenance, default_schedule=Schedule(min_steps=2))
    return SimpleNamespace(bundle=home / "bundle", prior=prior, data=home / "data")


@pytest.fixture
def bundle(toy, tmp_path):
    """A copy, to be written to."""
    return shutil.copytree(toy.bundle, tmp_path / "bundle")


def arguments(bundle, prior, data, **options):
    values = {"bundle": bundle, "prior": prior, "data": data, "count": COUNT, "steps": 3} | options
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def manifest_of(bundle):
    return Manifest.from_json((bundle / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def measured(toy, tmp_path_factory):
    """The bundle after one run of the command, what the command printed, and the figures."""
    bundle = shutil.copytree(toy.bundle, tmp_path_factory.mktemp("measured") / "bundle")
    result = CliRunner().invoke(evaluate.main, arguments(bundle, toy.prior, toy.data))
    assert result.exit_code == 0, result.output
    return SimpleNamespace(bundle=bundle, printed=result.output, figures=manifest_of(bundle).provenance["metrics"])


def leaves(value):
    if isinstance(value, dict | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    return [value]


# The command


def test_every_figure_is_printed_and_written_into_the_manifest(measured):
    figures = measured.figures
    assert list(figures) == [
        "measured_on",
        "reconstruction_psnr",
        "codebook_perplexity",
        "codes_used",
        "cross_entropy_heldout",
        "cross_entropy_training",
        "frechet",
        "nearest_training_crop",
    ]
    assert list(figures["cross_entropy_heldout"]) == ["0.25", "0.5", "0.75", "1.0"]
    assert len(figures["frechet"]) == 7
    numbers = [leaf for leaf in leaves(figures) if not isinstance(leaf, str)]
    assert len(numbers) == 3 + 2 * 4 + 6 + 2 * 2
    assert all(math.isfinite(number) for number in numbers)
    assert f"{COUNT} pictures" in figures["frechet"]["what"]
    assert figures["frechet"]["sampling_steps"] == 3
    assert "nearest of 12 training crops" in figures["nearest_training_crop"]["what"]
    for name, value in figures.items():
        assert f"{name}: {value}" in measured.printed.splitlines()


def test_all_else_in_the_bundle_stays_as_it_was(measured, toy):
    before, after = manifest_of(toy.bundle), manifest_of(measured.bundle)
    assert replace(after, provenance={**after.provenance, "metrics": {"stale": 1}}) == before
    for graph in ("encoder", "decoder", "denoiser"):
        assert (measured.bundle / f"{graph}.onnx").read_bytes() == (toy.bundle / f"{graph}.onnx").read_bytes()
    assert sorted(path.name for path in measured.bundle.iterdir()) == sorted(path.name for path in toy.bundle.iterdir())
    with sundae_rt.load(measured.bundle, variant="fp32") as runtime:
        sample = runtime.generate(label="ice", steps=3)[0]
    assert np.array_equal(sample.codes.flatten(), grid(2, 0))


# What the figures say


def test_reconstruction_and_codebook_are_those_of_held_out_crops(measured):
    assert measured.figures["reconstruction_psnr"] == pytest.approx(10 * math.log10(255**2 / BRIGHTER**2), abs=1e-4)
    assert measured.figures["codebook_perplexity"] == pytest.approx(CODES / 2, abs=1e-3)
    assert measured.figures["codes_used"] == CODES / 2


def test_a_bundle_that_repeats_training_crops_is_found_out(measured):
    nearest = measured.figures["nearest_training_crop"]
    assert nearest["samples"] == pytest.approx([0, 0], abs=1e-4)
    assert min(nearest["heldout_crops"]) > 0.001


def test_psnr_is_the_mean_over_pictures():
    black = np.zeros((3, 2, 2, 3), np.uint8)
    other = black.copy()
    other[0] = 255  # 0 dB
    other[1] = 51  # a fifth of the range: 20 log10(5)
    other[2, 0, 0] = 102  # two fifths, at a quarter of the pixels: the same
    wanted = 2 / 3 * 20 * math.log10(5)
    assert evaluate.psnr([black], [other]) == pytest.approx(wanted)
    assert evaluate.psnr([black[:2], black[2:]], [other[:2], other[2:]]) == pytest.approx(wanted)


def greys(network, batches):
    """Stand-in features: the mean grey of each picture, and a constant."""
    means = np.concatenate([batch.mean((1, 2, 3)) for batch in batches])
    return np.stack((means, np.ones_like(means)), 1)


def test_each_frechet_distance_compares_the_sets_that_it_names(toy, monkeypatch):
    """The mean grey of a picture is 4 times its mean code, and what it is brighter.

    That is 127 for each held-out crop, 124 for what its codes decode to, 126 for each sample, and 126 and 62 for the
    training crops, six each.
    """
    monkeypatch.setattr(evaluate, "features_of", greys)
    figures = evaluate.measure(toy.bundle, toy.prior, toy.data, COUNT, 3)["frechet"]
    spread = 32**2 * COUNT / (COUNT - 1)
    assert {name: value for name, value in figures.items() if "_to_" in name} == pytest.approx(
        {
            "samples_to_heldout": 1,
            "reconstructions_to_heldout": 9,
            "other_heldout_to_heldout": 0,
            "training_to_heldout": 33**2 + spread,
            "samples_to_training": 32**2 + spread,
        }
    )


def test_real_features_are_no_distance_from_themselves(toy, measured):
    images = ImageFolder(toy.data / "train", 32)
    crops = np.stack([images[index].numpy() for index in range(len(images))])
    network = efficientnet_lite0()
    features = features_of(network, [crops[:5], crops[5:]])
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6 * np.trace(np.cov(features, rowvar=False)))
    with sundae_rt.load(toy.bundle, variant="fp32") as runtime:
        made = np.stack([np.asarray(sample.image) for sample in runtime.generate(COUNT, steps=3)])
    wanted = frechet_distance(features_of(network, [made]), features)
    assert measured.figures["frechet"]["samples_to_training"] == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1


def test_a_prior_that_knows_nothing_has_the_entropy_of_a_blind_guess(toy):
    values = checkpoint.load(toy.prior, "prior")
    prior = build_prior(values, "toy").eval()
    torch.nn.init.zeros_(prior.to_logits.weight)
    if prior.to_logits.bias is not None:
        torch.nn.init.zeros_(prior.to_logits.bias)
    codes = np.random.default_rng(0).integers(0, CODES, (40, 8, 8), dtype=np.int32)
    found = evaluate.cross_entropies(prior, codes, torch.zeros(40, dtype=torch.long))
    assert found == pytest.approx({str(rate): math.log(CODES) for rate in evaluate.RATES})


def test_a_trained_prior_knows_less_the_more_is_corrupted(measured):
    seen, unseen = (list(measured.figures[f"cross_entropy_{crops}"].values()) for crops in ("training", "heldout"))
    assert seen == sorted(seen)
    assert seen[0] < 0.6 * seen[-1] and seen[-1] < math.log(CODES)
    assert all(known < unknown for known, unknown in zip(seen, unseen, strict=True))


def test_each_crop_is_measured_once_and_under_its_own_label(toy, monkeypatch):
    calls = []
    monkeypatch.setattr(evaluate, "features_of", greys)
    monkeypatch.setattr(evaluate, "cross_entropies", lambda prior, codes, ids: calls.append((codes, ids)))
    evaluate.measure(toy.bundle, toy.prior, toy.data, COUNT, 3)
    label_of = {
        "heldout": {tuple(grid(label, start) // 2 * 2): label for label in range(3) for start in range(0, CODES, 8)},
        "train": {tuple(grid(label, 16 * k) // j): label for label in range(3) for k in (0, 1) for j in (1, 2)},
    }
    for (codes, ids), labels in zip(calls, label_of.values(), strict=True):
        crops = [tuple(crop) for crop in codes.reshape(COUNT, CODES).tolist()]
        assert len(set(crops)) == COUNT
        assert [labels[crop] for crop in crops] == ids.tolist()


def test_a_label_has_the_priors_number_where_the_folder_lacks_another(tmp_path):
    for label in (2, 1):
        write(tmp_path, label, grid(label, 0))
    images = ImageFolder(tmp_path, 32)
    assert evaluate.label_ids(images, list(LABELS), np.array([1, 0, 1])).tolist() == [2, 1, 2]
    assert evaluate.label_ids(images, None, np.array([1, 0, 1])) is None


def test_every_crop_counts_the_same_whatever_the_batches(monkeypatch):
    """A batch that is not full weighs less. The stand-in for the cross-entropy is the mean of codes and labels."""
    monkeypatch.setattr(evaluate, "BATCH", 5)
    monkeypatch.setattr(
        evaluate,
        "cross_entropy_at",
        lambda prior, codes, ids, rate: float(codes.double().mean() + rate * ids.double().mean()),
    )
    codes = np.arange(12, dtype=np.int32).reshape(-1, 1, 1) ** 2
    found = evaluate.cross_entropies(None, codes, torch.arange(12) ** 3)
    assert found == pytest.approx(
        {str(rate): codes.mean() + rate * (np.arange(12) ** 3).mean() for rate in (0.25, 0.5, 0.75, 1.0)}
    )


# What is refused


def refused(bundle, prior, data, **options):
    """The one line that a run says which is refused, and leaves the bundle as it was."""
    before = (bundle / "manifest.json").read_bytes()
    result = CliRunner().invoke(evaluate.main, arguments(bundle, prior, data, **options))
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
    assert (bundle / "manifest.json").read_bytes() == before
    return result.output


@pytest.mark.parametrize(
    ("name", "change", "found", "wanted"),
    [
        ("VQ-GAN (codes_sha256)", {"vqgan": {"file": "vqgan.pt", "codes_sha256": "beef" * 16}}, "beef" * 16, SHA256),
        ("vocabulary", {"config": {"vocabulary": 65}}, "65", "64"),
        ("latent grid", {"config": {"latent_grid": [16, 16]}}, "(16, 16)", "(8, 8)"),
        ("labels", {"labels": ["desert", "coast", "ice"]}, "['desert', 'coast', 'ice']", "['coast', 'desert', 'ice']"),
        ("steps", {"provenance": {"steps": 101}}, "101", "100"),
        ("seed", {"provenance": {"seed": 1}}, "1", "0"),
    ],
)
def test_a_prior_that_is_not_the_bundles_is_refused_naming_both_sides(
    name, change, found, wanted, bundle, toy, tmp_path
):
    values = checkpoint.load(toy.prior, "prior")
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    checkpoint.save(tmp_path / "other.pt", values)
    line = refused(bundle, tmp_path / "other.pt", toy.data)
    assert f"other.pt is not the prior of the bundle 'toy': its {name}" in line
    assert found in line.partition("the bundle's")[0]
    assert wanted in line.partition("the bundle's")[2]


def test_a_bundle_that_does_not_say_whose_codes_it_has_is_refused(bundle, toy):
    manifest = manifest_of(bundle)
    (bundle / "manifest.json").write_text(replace(manifest, provenance={}).to_json())
    assert f"its VQ-GAN (codes_sha256) is '{SHA256}', the bundle's None" in refused(bundle, toy.prior, toy.data)


def test_the_shipped_bundle_says_what_the_evaluation_asks_of_it():
    provenance = manifest_of(engines.shipped()["earth"]).provenance
    assert len(provenance["vqgan"]["codes_sha256"]) == 64
    assert {"images", "steps", "seed"} <= set(provenance["prior"])


def test_the_family_of_absorbing_priors_is_refused_by_name(bundle, toy, tmp_path):
    values = checkpoint.load(toy.prior, "prior")
    checkpoint.save(tmp_path / "masked.pt", values | {"family": "absorbing"})
    assert "masked.pt is of the family 'absorbing'" in refused(bundle, tmp_path / "masked.pt", toy.data)
    manifest = manifest_of(bundle)
    (bundle / "manifest.json").write_text(replace(manifest, family="absorbing").to_json())
    line = refused(bundle, toy.prior, toy.data)
    assert "its family is 'sundae', the bundle's 'absorbing'" in line


@pytest.mark.parametrize(("heldout", "train"), [(23, 12), (24, 11)])
def test_too_few_crops_are_refused_with_both_numbers(heldout, train, bundle, toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    for name, left in (("heldout", heldout), ("train", train)):
        for path in sorted((tmp_path / "data" / name).rglob("*.png"))[left:]:
            path.unlink()
    line = refused(bundle, toy.prior, tmp_path / "data")
    assert f"holds {heldout} held-out and {train} training crops: --count 12 needs 24 and 12" in line


def test_crops_with_labels_that_the_prior_does_not_know_are_refused(bundle, toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    (tmp_path / "data" / "heldout" / "ice").rename(tmp_path / "data" / "heldout" / "lava")
    assert "['coast', 'desert', 'lava'], the prior has ['coast', 'desert', 'ice']" in refused(
        bundle, toy.prior, tmp_path / "data"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": (32, 64)}, "the bundle 'toy' makes images of 32x64: square ones are needed"),
        ({"image_size": None}, "the bundle 'toy' makes no images: square ones are needed"),
    ],
)
def test_a_bundle_without_square_pictures_is_refused(changes, words, bundle, toy):
    manifest = manifest_of(bundle)
    graphs = {"denoiser": manifest.graphs["denoiser"]}
    (bundle / "manifest.json").write_text(replace(manifest, graphs=graphs, **changes).to_json())
    assert words in refused(bundle, toy.prior, toy.data)


@pytest.mark.parametrize("options", [{"count": 1}, {"count": -3}, {"steps": 0}, {"steps": MAX_STEPS + 1}])
def test_numbers_out_of_range_are_a_wrong_command_line(options, toy):
    result = CliRunner().invoke(evaluate.main, arguments(toy.bundle, toy.prior, toy.data, **options))
    assert result.exit_code == 2
    assert f"Invalid value for '--{next(iter(options))}'" in result.output and "is not in the range" in result.output


def test_a_refusal_of_the_program_is_one_line_and_no_traceback(bundle, toy):
    command = [sys.executable, "-m", "sundae_rt.training.earth.evaluate"]
    command += arguments(bundle, bundle / "manifest.json", toy.data)  # no checkpoint
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {bundle / 'manifest.json'} is no checkpoint")
    assert len(done.stderr.splitlines()) == 1
