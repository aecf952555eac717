"""The real chain at toy size: crops, VQ-GAN, codes, prior, bundle; losses fall, and a stop changes nothing."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.training import checkpoint, encoding  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.vqgan import train as vqgan_training  # noqa: E402


def logged(log, figure):
    return [float(value) for value in re.findall(rf"{figure} ([0-9.]+)", log.read_text())]


@pytest.fixture(scope="session")
def bundle(prior, tmp_path_factory):
    return export_checkpoint(prior, out=tmp_path_factory.mktemp("bundles") / "toy", logits=True, say=lambda line: None)


def test_the_vqgan_learns_on_real_crops_and_uses_its_codebook(vqgan):
    errors = logged(vqgan.parent / "vqgan.log", "l1")
    assert errors[-1] < 0.75 * errors[0]
    assert logged(vqgan.parent / "vqgan.log", "perplexity")[-1] > 16
    assert (vqgan.parent / "vqgan-samples.png").exists()


def test_the_adversary_starts_late_and_leaves_the_codes_alone(vqgan, crops, tmp_path):
    text = (vqgan.parent / "vqgan.log").read_text()
    assert [("hinge" in line) for line in text.splitlines()] == [False] * 4 + [True] * 2
    shutil.copytree(vqgan.parent, tmp_path / "more")
    before = encoding.load_vqgan(tmp_path / "more" / "vqgan.pt")
    vqgan_training.train(crops, tmp_path / "more", preset="toy", steps=303, resume=True, say=lambda line: None)
    after = encoding.load_vqgan(tmp_path / "more" / "vqgan.pt")
    assert checkpoint.tensor_hash(before.codes_parameters()) == checkpoint.tensor_hash(after.codes_parameters())
    assert not torch.equal(before.decoder.conv_out.weight, after.decoder.conv_out.weight)


def test_labels_are_the_datas_own_and_an_unlabelled_prior_trains_too(prior, codes, tmp_path):
    dataset = encoding.read(codes)
    values = checkpoint.load(prior, "prior")
    assert values["labels"] == list(dataset.labels)
    assert values["config"]["labels"] == len(dataset.labels)
    assert values["config"]["null_label"]
    unlabelled = dataclasses.replace(dataset, labels=None, label_ids=None)
    encoding.write(tmp_path / "codes.safetensors", unlabelled)
    path = prior_training.train(
        tmp_path / "codes.safetensors", tmp_path / "prior", preset="toy", steps=2, say=lambda line: None
    )
    assert checkpoint.load(path, "prior")["config"]["labels"] == 0


def test_codes_of_another_vocabulary_are_refused_naming_both_sides(codes, tmp_path):
    other = dataclasses.replace(encoding.read(codes), vocabulary=65)
    encoding.write(tmp_path / "codes.safetensors", other)
    with pytest.raises(InputError, match="vocabulary 64, the codes have 65"):
        prior_training.train(tmp_path / "codes.safetensors", tmp_path / "prior", preset="toy", say=lambda line: None)


def test_the_prior_learns(prior):
    losses = logged(prior.parent / "prior.log", "loss")
    assert losses[-1] < 0.85 * losses[0]
    assert (prior.parent / "prior-samples.png").exists()


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(codes, tmp_path, monkeypatch):
    def saving_every_fourth(*arguments):
        preset = read_config(*arguments)
        return dataclasses.replace(preset, training=dataclasses.replace(preset.training, save_every=4))

    def interrupted(trainer, batch, step):
        if step == 6:
            raise KeyboardInterrupt
        return take_step(trainer, batch, step)

    def run(folder, resume=False):
        prior_training.train(codes, folder, preset="toy", steps=8, resume=resume, say=lambda line: None)
        return checkpoint.read(folder / "prior.resume.pt")

    read_config, take_step = prior_training.read_config, prior_training.PriorTrainer.step
    monkeypatch.setattr(prior_training, "read_config", saving_every_fourth)
    unbroken = run(tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(prior_training.PriorTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    assert checkpoint.read(tmp_path / "broken" / "prior.resume.pt")["step"] == 4
    resumed = run(tmp_path / "broken", resume=True)
    for part in ("prior", "average"):
        for name, tensor in unbroken[part].items():
            assert torch.equal(tensor, resumed[part][name]), name


def test_the_bundle_generates_and_keeps_the_promise_about_seeds(bundle):
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        together = runtime.generate(n=5, seed=7)
        alone = runtime.generate(n=1, seed=9)[0]
    assert np.array_equal(together[2].codes, alone.codes)
    assert np.array_equal(np.asarray(together[2].image), np.asarray(alone.image))


def test_the_bundle_computes_what_pytorch_computes(bundle, prior, vqgan):
    from sundae_rt.export.sources import from_checkpoints

    sources = from_checkpoints(prior, None)
    grids = np.random.default_rng(0).integers(0, 64, (4, 8, 8), dtype=np.int32)
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        logits, pixels = runtime.logits(grids, label=[0, 1, 2, 0]), runtime.decode(grids)
        manifest = runtime.manifest
    with torch.no_grad():
        flat = torch.from_numpy(grids).flatten(1)
        own = sources.prior.model(flat, torch.tensor([0, 1, 2, 0])).numpy()
        assert np.abs(logits.reshape(4, 64, 64) - own).max() < 1e-4
        wanted = (sources.vqgan.model.decode(torch.from_numpy(grids)).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert np.abs(pixels - wanted.clip(0, 255)).max() <= 1
    assert manifest.checks["decoder"]["pixels_max_difference"] <= 1
    assert manifest.checks["denoiser"]["equal_proposals"] >= 0.999


def test_inpainting_keeps_what_the_mask_keeps(bundle, crops):
    from PIL import Image

    image = Image.open(next(crops.rglob("*.png")))
    mask = np.zeros((32, 32), np.uint8)
    mask[10:25, 5:20] = 255
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        result = np.asarray(runtime.inpaint(image, Image.fromarray(mask), seed=3)[0].image)
    original = np.asarray(image)
    assert np.array_equal(result[mask == 0], original[mask == 0])
    assert not np.array_equal(result[mask > 0], original[mask > 0])


def test_an_existing_bundle_is_refused_and_left_as_it_is(bundle, prior):
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="--force"):
        export_checkpoint(prior, out=bundle, say=lambda line: None)
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_prior_and_a_vqgan_that_do_not_belong_together_are_refused(prior, vqgan, tmp_path):
    values = checkpoint.read(vqgan)
    values["weights"]["quant_conv.bias"] += 1
    checkpoint.save(tmp_path / "other.pt", values)
    with pytest.raises(InputError, match="is not the VQ-GAN whose codes"):
        export_checkpoint(prior, vqgan=tmp_path / "other.pt", out=tmp_path / "bundle", say=lambda line: None)
    assert not (tmp_path / "bundle").exists()


def test_a_graph_that_differs_from_pytorch_is_not_written(prior, tmp_path, monkeypatch):
    from sundae_rt.export.variants import VARIANTS

    fp32 = VARIANTS["fp32"]
    strict = dataclasses.replace(fp32, tolerance=dataclasses.replace(fp32.tolerance, logits=0.0))
    monkeypatch.setitem(VARIANTS, "fp32", strict)
    with pytest.raises(sundae_rt.BundleError, match="nothing was written"):
        export_checkpoint(prior, out=tmp_path / "bundle", say=lambda line: None)
    assert not list(tmp_path.iterdir())
