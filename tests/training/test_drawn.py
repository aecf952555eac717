"""Codes that a prior drew: how they are made, what the decoder learns from them, and when they are refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, encoding  # noqa: E402
from sundae_rt.training.vqgan import drawn  # noqa: E402
from sundae_rt.training.vqgan.train import VQGANTrainer, train  # noqa: E402

TINY = """
extends = "toy"
[vqgan]
channels = 4
norm_groups = 4
[vqgan.training]
steps = 4
batch_size = 2
save_every = 1
perceptual = false
discriminator_start = 2
freeze_codes = true
adversarial_weight = {weight}
"""
SIDE, VOCABULARY = 8, 64


@pytest.fixture(scope="module", params=[1.0, 0.0], ids=["an adversary that counts", "one that counts nothing"])
def began(request, tmp_path_factory):
    """A folder with images, codes that fit, and a training in its phase of texture."""
    here = tmp_path_factory.mktemp("began")
    generator = np.random.default_rng(0)
    (here / "data").mkdir()
    for index in range(3):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "data" / f"{index}.png")
    (here / "tiny.toml").write_text(TINY.format(weight=request.param))
    train(here / "data", here / "run", preset=str(here / "tiny.toml"), say=lambda _: None)
    model = encoding.load_vqgan(here / "run" / "vqgan.pt")
    made_by = checkpoint.tensor_hash(model.codes_parameters())
    for seed, name in enumerate(("drawn", "others")):
        codes = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCABULARY, (5, SIDE, SIDE), dtype=np.int32))
        encoding.write(here / name, encoding.LatentDataset(codes, VOCABULARY, None, None, None, made_by))
    return here


@pytest.fixture
def here(began, tmp_path):
    shutil.copytree(began, tmp_path, dirs_exist_ok=True)
    return tmp_path


def go_on(here, steps, drawn_codes=None, out="run"):
    train(here / "data", here / out, steps=steps, resume=True, drawn_codes=drawn_codes, say=lambda _: None)
    return checkpoint.load(here / out / "vqgan.pt", "vqgan")


def same(one, other, prefix=""):
    return all(torch.equal(one["weights"][k], other["weights"][k]) for k in one["weights"] if k.startswith(prefix))


def test_the_adversary_alone_judges_their_pictures(here):
    """Without it, what the decoder learns is what it learns without them."""
    shutil.copytree(here / "run", here / "plain")
    with_them, without = go_on(here, 6, here / "drawn"), go_on(here, 6, out="plain")
    counts = "1.0" in (here / "tiny.toml").read_text()
    assert same(with_them, without, "decoder.") is not counts
    assert same(with_them, without, "encoder.") and same(with_them, without, "quantize.")
    states = [checkpoint.read(here / name / "vqgan.resume.pt")["discriminator"] for name in ("run", "plain")]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert with_them["provenance"]["drawn_codes"] == 5 and "drawn_codes" not in without["provenance"]


def test_a_training_with_them_goes_on_exactly(here, monkeypatch):
    shutil.copytree(here / "run", here / "again")
    unbroken, step = go_on(here, 8, here / "drawn"), VQGANTrainer.step

    def stopped(trainer, pixels, number):
        if number == 6:
            raise KeyboardInterrupt
        return step(trainer, pixels, number)

    monkeypatch.setattr(VQGANTrainer, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        go_on(here, 8, here / "drawn", out="again")
    monkeypatch.setattr(VQGANTrainer, "step", step)
    assert same(unbroken, go_on(here, 8, here / "drawn", out="again"))


def test_a_training_that_began_with_them_wants_the_same_again(here):
    go_on(here, 5, here / "drawn")
    with pytest.raises(InputError, match=r"^the training went on with drawn codes \([0-9a-f]{12}\): name them with"):
        go_on(here, 6)
    with pytest.raises(InputError, match=r"^the training went on with other drawn codes \([0-9a-f]{12}\): name those"):
        go_on(here, 6, here / "others")


def test_they_are_refused_where_no_codes_are_final(here):
    with pytest.raises(InputError, match="drawn with a VQ-GAN that is trained already: go on with it by --resume"):
        train(here / "data", here / "new", preset="toy", drawn_codes=here / "drawn")
    train(here / "data", here / "new", preset=str(here / "tiny.toml"), steps=1, say=lambda _: None)
    with pytest.raises(InputError, match=r"for when the codes are final .* not for step 1: leave out --drawn-codes"):
        go_on(here, 4, here / "drawn", out="new")


@pytest.mark.parametrize(
    ("shape", "changes", "told"),
    [
        ((2, SIDE, SIDE), {"codes_sha256": "0" * 64}, "holds codes of another VQ-GAN: draw from a bundle of this one"),
        ((2, 4, 4), {}, r"has grids of \[4, 4\], the VQ-GAN of \[8, 8\]"),
    ],
)
def test_codes_that_do_not_fit_are_refused(here, shape, changes, told):
    values = vars_of(encoding.read(here / "drawn")) | {"codes": torch.zeros(shape, dtype=torch.int32)} | changes
    encoding.write(here / "unfit", encoding.LatentDataset(**values))
    with pytest.raises(InputError, match=told):
        go_on(here, 5, here / "unfit")


def vars_of(dataset):
    return {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}


def test_a_bundles_prior_draws_them_by_seed(prior, tmp_path, capsys):
    from sundae_rt.export import export_checkpoint

    pytest.importorskip("onnxscript")
    vqgan = prior.parent / "vqgan.pt"
    bundle = export_checkpoint(prior, vqgan=vqgan if vqgan.exists() else None, out=tmp_path / "toy", say=lambda _: None)
    drawn.main(
        ["--bundle", str(bundle), "--count", "5", "--seed", "3", "--out", str(tmp_path / "d")], standalone_mode=False
    )
    assert capsys.readouterr().out.endswith("d: 5 grids\n")
    found = drawn.DrawnCodes(tmp_path / "d")
    dataset = encoding.read(tmp_path / "d")
    assert len(found) == 5 and dataset.labels is not None and len(dataset.label_ids) == 5
    assert dataset.codes_sha256 == checkpoint.load(prior, "prior")["vqgan"]["codes_sha256"]
    fewer = drawn.draw(bundle, 2, seed=4)
    assert torch.equal(fewer.codes, dataset.codes[1:3])
    torch.manual_seed(0)
    some = found.some(7)
    assert some.dtype == torch.int64 and some.shape == (7, *dataset.codes.shape[1:])
    assert all(any(torch.equal(row, grid) for grid in dataset.codes.long()) for row in some)


def test_a_bundle_that_does_not_name_its_vqgan_draws_none(tmp_path, capsys):
    from fakes import write_bundle

    bundle = write_bundle(tmp_path / "unknown")
    with pytest.raises(SystemExit) as ended:
        drawn.main(["--bundle", str(bundle), "--count", "1", "--out", str(tmp_path / "d")])
    assert ended.value.code == 1
    assert "does not say which VQ-GAN its codes belong to" in capsys.readouterr().err
    (tmp_path / "d").touch()
    with pytest.raises(SystemExit):
        drawn.main(["--bundle", str(bundle), "--count", "1", "--out", str(tmp_path / "d")])
    assert "d exists: name another file" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # before anything is drawn
        drawn.main(["--bundle", str(bundle), "--count", "1", "--out", str(tmp_path / "d" / "e")])
    assert "d is no folder, so " in capsys.readouterr().err


def test_the_command_takes_them(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    command = ["train", "vqgan", "--data", "data", "--out", "run", "--resume", "--steps", "5", "--drawn-codes", "none"]
    assert run(command) == 1
    assert "there is no file of codes none" in capsys.readouterr().err
    assert run([*command[:-1], "drawn"]) == 0
    assert checkpoint.load(here / "run" / "vqgan.pt", "vqgan")["provenance"]["drawn_codes"] == 5
