"""Absorbing diffusion: masks, a loss that any implementation of the paper would give, and the chain at toy size."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export.sources import from_preset  # noqa: E402
from sundae_rt.training import checkpoint, config, describe  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.absorbing import AbsorbingConfig, AbsorbingLoss, AbsorbingPrior, sample  # noqa: E402
from sundae_rt.training.prior.preset import read_config  # noqa: E402

CONFIG = AbsorbingConfig(11, (4, 4), dim=24, heads=3, depth=2, labels=3, null_label=True)


# The model


def test_masks_come_in_and_never_go_out():
    prior = AbsorbingPrior(CONFIG)
    assert prior.code_embedding.num_embeddings == 12
    assert prior(torch.full((2, 16), 11), torch.tensor([0, 3])).shape == (2, 16, 11)
    assert prior.to_logits.bias is None


def test_every_place_sees_every_other_and_knows_its_own():
    torch.manual_seed(0)
    prior = AbsorbingPrior(CONFIG).eval()
    codes, label = torch.randint(11, (1, 16)), torch.tensor([0])
    with torch.no_grad():
        changed = codes.clone()
        changed[0, 15] = (codes[0, 15] + 1) % 11
        assert (prior(codes, label) != prior(changed, label)).any(-1).all()
        alike = prior(torch.zeros(1, 16, dtype=torch.long), label)
    assert not torch.allclose(alike[0, 0], alike[0, 1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "dim 24 does not divide into 5 heads"),
        ({"depth": 0}, "depth is 0: it must be at least 1"),
        ({"vocabulary": 1}, "at least 2 codes"),
        ({"labels": 0}, "null_label needs labels"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes, words):
    values = {"vocabulary": 11, "latent_grid": (4, 4), "dim": 24, "heads": 3, "labels": 3, "null_label": True}
    with pytest.raises(InputError, match=words):
        AbsorbingConfig(**values | changes)


# The loss


class Recorder(torch.nn.Module):
    """A stand-in for the prior: it has nothing to say for certain, and it remembers what it was given."""

    config = CONFIG

    def __init__(self, logits=(0.0,) * 11):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))
        self.seen = []

    def forward(self, codes, label):
        self.seen.append((codes, label))
        return self.logits.expand(*codes.shape, -1)


def test_each_row_is_masked_at_its_own_time_and_otherwise_left_alone():
    torch.manual_seed(0)
    prior = Recorder()
    AbsorbingLoss(prior, 0.0, time_steps=4)(torch.full((400, 500), 7), torch.zeros(400, dtype=torch.long), 0)
    seen = prior.seen[0][0]
    assert set(seen.unique().tolist()) == {7, 11}
    shares = (seen == 11).float().mean(1)
    times = (4 * shares).round()
    assert (shares - times / 4).abs().max() < 0.12
    assert times.long().bincount().tolist()[1:] == pytest.approx([100] * 4, abs=40)


def test_the_loss_is_the_reweighted_bound():
    """For a model that gives each code p, it is -log p times the mean of t / T (T - t + 1) / T over t."""
    torch.manual_seed(0)
    codes, steps = torch.full((3000, 64), 7), 5
    result = AbsorbingLoss(Recorder(), 0.0, steps)(codes, torch.zeros(3000, dtype=torch.long), 0)
    weight = sum(time * (steps - time + 1) for time in range(1, steps + 1)) / steps**3
    assert float(result.loss.detach()) == pytest.approx(np.log(11) * weight, rel=0.02)


def test_a_grid_that_is_masked_whole_teaches_too():
    prior = Recorder()
    AbsorbingLoss(prior, 0.0, time_steps=1)(torch.full((2, 16), 7), torch.tensor([0, 1]), 0).loss.backward()
    assert (prior.seen[0][0] == 11).all()
    assert float(prior.logits.grad[7]) < 0


def test_codes_that_are_not_masked_teach_nothing():
    torch.manual_seed(0)
    sure = Recorder([0.0] * 7 + [50.0] + [0.0] * 3)  # of code 7, rightly where it is masked
    codes = torch.where(torch.arange(64) % 2 == 0, 7, 3).expand(500, -1)
    result = AbsorbingLoss(sure, 0.0, 8)(codes, torch.zeros(500, dtype=torch.long), 0)
    masked = sure.seen[0][0] == 11
    assert float(result.accuracy) == pytest.approx(float((codes == 7)[masked].float().mean()))


def test_label_dropout_hides_labels_behind_the_null_label():
    prior = Recorder()
    AbsorbingLoss(prior, 1.0, 8)(torch.zeros(8, 16, dtype=torch.long), torch.zeros(8, dtype=torch.long), 0)
    assert prior.seen[0][1].tolist() == [CONFIG.labels] * 8


@pytest.mark.parametrize("steps", [1, 4, 40])
def test_the_plain_sampler_leaves_no_mask(steps):
    grids = sample(AbsorbingPrior(CONFIG).eval(), torch.tensor([0, 1, 2]), 3, steps, (1.0, 0.0))
    assert grids.shape == (3, 4, 4)
    assert grids.min() >= 0 and grids.max() < 11


# Presets


def test_ffhq256_absorbing_has_the_published_sizes():
    described = describe("prior", "ffhq256-absorbing")
    sizes = described["config"]
    assert (described["family"], described["parameters"]) == ("absorbing", 76_838_400)
    assert (sizes["dim"], sizes["heads"], sizes["depth"]) == (512, 8, 24)
    assert (sizes["vocabulary"], sizes["latent_grid"], described["training"]["time_steps"]) == (1024, (16, 16), 256)
    vqgan = describe("vqgan", "ffhq256-absorbing")["config"]
    assert (vqgan["codebook_size"], vqgan["image_size"] // 16) == (1024, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "autoregressive"}, r"family 'autoregressive' is unknown; known are sundae, absorbing"),
        ({"family": ["absorbing"]}, "is unknown; known are sundae, absorbing"),
        ({"shorten": 4}, "unknown key 'shorten'"),
        ({"training": {"unroll_steps": 2}}, r"prior\.training\]: unknown key 'unroll_steps'"),
        ({"training": {"time_steps": 0}}, "time_steps is 0"),
        ({"schedule": {"proportion": [1.0, 1.0]}}, r"prior\.schedule\]: unknown key 'proportion'"),
    ],
)
def test_what_a_family_does_not_know_is_refused_by_name(changes, words):
    values = config.load_preset("toy-absorbing").section("prior") | changes
    with pytest.raises(InputError, match=words):
        read_config(config.Preset("mine", {"prior": values}))


# The chain: each stage is one command


def succeeds(*command):
    assert run([str(word) for word in command]) == 0


@pytest.fixture(scope="module")
def prior(codes, tmp_path_factory):
    out = tmp_path_factory.mktemp("absorbing")
    succeeds("train", "prior", "--preset", "toy-absorbing", "--codes", codes, "--out", out)
    return out / "prior.pt"


@pytest.fixture(scope="module")
def bundle(prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "toy-absorbing"
    succeeds("export", "--checkpoint", prior, "--out", out)
    return out


def test_the_prior_learns(prior):
    losses = [float(value) for value in re.findall(r"loss ([0-9.]+)", (prior.parent / "prior.log").read_text())]
    assert losses[-1] < 0.92 * losses[0]
    assert (prior.parent / "prior-samples.png").exists()
    values = checkpoint.load(prior, "prior")
    assert (values["family"], values["config"]["labels"]) == ("absorbing", len(values["labels"]))


def test_a_resumed_run_is_an_unbroken_one(codes, tmp_path, monkeypatch):
    def interrupted(trainer, batch, step):
        if step == 3:
            raise KeyboardInterrupt
        return take_step(trainer, batch, step)

    def training(folder, resume=False):
        preset = {"preset": "toy-absorbing", "steps": 5}
        prior_training.train(codes, tmp_path / folder, **preset, resume=resume, say=lambda line: None)
        return checkpoint.read(tmp_path / folder / "prior.resume.pt")

    preset = config.load_preset("toy-absorbing")
    preset.sections["prior"]["training"]["save_every"] = 2
    take_step = prior_training.PriorTrainer.step
    monkeypatch.setattr(config, "load_preset", lambda name: preset)
    unbroken = training("unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(prior_training.PriorTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training("broken")
    resumed = training("broken", resume=True)
    for part in ("prior", "average"):
        for name, tensor in unbroken[part].items():
            assert torch.equal(tensor, resumed[part][name]), name


def test_a_training_of_another_family_is_not_resumed(prior, codes):
    with pytest.raises(InputError, match="began with --preset toy-absorbing, not toy"):
        prior_training.train(codes, prior.parent, preset="toy", resume=True, say=lambda line: None)


def test_the_bundle_generates_and_keeps_the_promise_about_seeds(bundle):
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        assert runtime.manifest.family == "absorbing"
        assert runtime.manifest.default_schedule.steps == 16
        together = runtime.generate(n=4, seed=7, label=1)
        alone = runtime.generate(n=1, seed=9, label=1)[0]
        guided = runtime.generate(n=1, seed=9, label=1, guidance=4.0)[0]
    assert all(sample.codes.max() < 64 for sample in together)
    assert np.array_equal(together[2].codes, alone.codes)
    assert not np.array_equal(guided.codes, alone.codes)


def test_images_are_one_command_too(bundle, tmp_path):
    succeeds("generate", "--bundle", bundle, "--n", 2, "--steps", 3, "--out", tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_inpainting_keeps_what_the_mask_keeps(bundle, crops):
    from PIL import Image

    image = Image.open(next(crops.rglob("*.png")))
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 4:20] = 255
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        result = np.asarray(runtime.inpaint(image, Image.fromarray(mask), seed=3)[0].image)
    assert np.array_equal(result[mask == 0], np.asarray(image)[mask == 0])


def test_a_preset_exports_with_random_weights():
    sources = from_preset("toy-absorbing")
    assert sources.prior.family == "absorbing"
    assert isinstance(sources.prior.model, AbsorbingPrior)
    assert (sources.prior.schedule.steps, sources.prior.schedule.min_steps) == (16, 10)
    assert sources.image_size == (32, 32)
