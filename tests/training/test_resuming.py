"""A training that goes on is the one that began: what is left out is as it was, and what differs is refused."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import about, checkpoint, encoding, loop, resuming  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.vqgan import train as vqgan_training  # noqa: E402

TINY = """
extends = "toy"
[vqgan]
channels = 4
norm_groups = 4
[vqgan.training]
steps = 4
batch_size = 2
save_every = 2
perceptual = false
[prior.training]
steps = 4
batch_size = 2
save_every = 2
"""
BEGAN = ("--preset", "tiny.toml", "--seed", "5")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with images, codes and a preset of one's own."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for index in range(3):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{index}.png")
    codes = torch.from_numpy(generator.integers(0, 64, (5, 8, 8), dtype=np.int32))
    encoding.write(tmp_path / "codes.safetensors", encoding.LatentDataset(codes, 64, None, None, None, "unknown"))
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


KINDS = {
    "vqgan": ("--data", "data", vqgan_training.VQGANTrainer, "model"),
    "prior": ("--codes", "codes.safetensors", prior_training.PriorTrainer, "prior"),
}


def train(kind, out, *options):
    return run(["train", kind, *KINDS[kind][:2], "--out", out, *options])


def state(kind, out):
    return checkpoint.read(checkpoint.resume_path(out / f"{kind}.pt"))


def break_off(kind, out, monkeypatch, at=2):
    """Trains until Ctrl-C at a step."""
    trainer = KINDS[kind][2]
    take_step = trainer.step

    def interrupted(self, batch, step):
        if step == at:
            raise KeyboardInterrupt
        return take_step(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "step", interrupted)
        assert train(kind, out, *BEGAN) == 130


@pytest.mark.parametrize("kind", KINDS)
def test_resume_alone_goes_on_as_the_training_began(kind, here, monkeypatch):
    assert train(kind, "unbroken", *BEGAN) == 0
    break_off(kind, "broken", monkeypatch)
    (here / "tiny.toml").unlink()  # the state remembers what it said
    assert train(kind, "broken", "--resume") == 0
    unbroken, resumed = (state(kind, here / out) for out in ("unbroken", "broken"))
    for part in (KINDS[kind][3], "average"):
        for name, tensor in unbroken[part].items():
            assert torch.equal(tensor, resumed[part][name]), name
    assert resumed["began"] == unbroken["began"]
    provenance = checkpoint.load(here / "broken" / f"{kind}.pt", kind)["provenance"]
    assert (provenance["preset"], provenance["seed"], provenance["steps"]) == ("tiny.toml", 5, 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--seed", "7"), "began with --seed 5, not 7"),
        (("--preset", "toy"), "began with --preset tiny.toml, not toy"),
        (("--preset", "erth"), "unknown preset 'erth'"),
    ],
)
def test_other_settings_are_refused_in_one_line(options, told, here, monkeypatch, capsys):
    break_off("prior", "out", monkeypatch)
    before = (here / "out" / "prior.resume.pt").read_bytes()
    capsys.readouterr()
    assert train("prior", "out", "--resume", *options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and told in said[0]
    assert (here / "out" / "prior.resume.pt").read_bytes() == before
    assert train("prior", "out", "--resume", *BEGAN) == 0


def test_a_preset_that_changed_is_refused_where_it_matters(here, monkeypatch, capsys):
    break_off("vqgan", "out", monkeypatch)
    (here / "tiny.toml").write_text(TINY.replace("[vqgan.training]", "[vqgan.training]\nlearning_rate = 1e-4"))
    assert train("vqgan", "out", "--resume", *BEGAN) == 1
    assert "tiny.toml has changed since the training in out began" in capsys.readouterr().err
    (here / "tiny.toml").write_text(TINY.replace("[prior.training]", "[prior.training]\nlearning_rate = 1e-4"))
    assert train("vqgan", "out", "--resume", *BEGAN) == 0


def test_other_images_are_refused_and_a_moved_folder_is_not(here, monkeypatch, capsys):
    break_off("vqgan", "out", monkeypatch)
    shutil.copyfile("data/0.png", "data/3.png")
    assert train("vqgan", "out", "--resume") == 1
    said = capsys.readouterr().err
    assert "began on 3 images (hash " in said and "this is 4 images (hash " in said
    (here / "data" / "3.png").unlink()
    (here / "data").rename("elsewhere")
    (here / "data").symlink_to("elsewhere")
    assert train("vqgan", "out", "--resume") == 0


def test_other_codes_are_refused(here, monkeypatch, capsys):
    break_off("prior", "out", monkeypatch)
    dataset = encoding.read(here / "codes.safetensors")
    dataset.codes[4, 7, 7] = (dataset.codes[4, 7, 7] + 1) % 64
    encoding.write(here / "codes.safetensors", dataset)
    assert train("prior", "out", "--resume") == 1
    assert "began on 5 images (hash " in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_steps_goes_on_and_says_what_that_changes(kind, here, monkeypatch, capsys):
    break_off(kind, "out", monkeypatch)
    assert train(kind, "out", "--resume", "--steps", "3") == 0
    said = capsys.readouterr().out
    assert "going on to step 3 instead of 4" in said and f"wrote out/{kind}.pt" in said
    assert state(kind, here / "out")["step"] == state(kind, here / "out")["began"]["steps"] == 3
    assert train(kind, "out", "--resume") == 0
    said = capsys.readouterr().out
    assert f"out/{kind}.pt has been trained for 3 steps already: a larger --steps goes on" in said
    assert "wrote" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_remembers_nothing_is_resumed_as_before(kind, here, monkeypatch, capsys):
    break_off(kind, "out", monkeypatch)
    earlier = state(kind, here / "out")
    del earlier["began"]
    checkpoint.save(here / "out" / f"{kind}.resume.pt", earlier)
    capsys.readouterr()
    preset = ("--preset", "toy-absorbing") if kind == "prior" else ()  # or else `earth`
    assert train(kind, "out", "--resume", *preset) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "began with another preset: name its own with --preset" in said[0]
    assert train(kind, "out", "--resume", *BEGAN) == 0
    assert state(kind, here / "out")["began"]["seed"] == 5


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(2, 1, "going on with 1 process instead of 2:"), (1, 4, "going on with 4 processes instead of 1:")],
)
def test_another_number_of_processes_goes_on_and_says_what_that_changes(before, now, told, here, monkeypatch, capsys):
    break_off("prior", "out", monkeypatch)
    left = state("prior", here / "out")
    assert left["began"]["processes"] == 1
    checkpoint.save(here / "out" / "prior.resume.pt", left | {"began": left["began"] | {"processes": before}})
    start = resuming.start(here / "out" / "prior.pt", "prior", preset=None, seed=None, steps=None, resume=True)
    line = start.other_processes(now)
    assert line.startswith(told) and "each step keeps its images, but not its random draws" in line
    assert start.other_processes(before) is None
    capsys.readouterr()
    assert train("prior", "out", "--resume") == 0
    assert (line in capsys.readouterr().out) == (now == 1)
    assert state("prior", here / "out")["began"]["processes"] == 1


def test_a_state_of_before_names_no_processes_and_nothing_is_said_of_them(here, monkeypatch, capsys):
    break_off("prior", "out", monkeypatch)
    earlier = state("prior", here / "out")
    del earlier["began"]["processes"]
    checkpoint.save(here / "out" / "prior.resume.pt", earlier)
    capsys.readouterr()
    assert train("prior", "out", "--resume") == 0
    assert "instead of" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [3, 4])
def test_a_batch_that_does_not_divide_among_the_processes_is_refused(kind, processes, here, monkeypatch, capsys):
    monkeypatch.setattr(loop, "make_accelerator", lambda precision: SimpleNamespace(num_processes=processes))
    assert train(kind, "out", *BEGAN) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"batch_size 2 does not divide by {processes} processes: start a number" in said[0]
    assert not (here / "out").exists()


def test_a_training_goes_on_in_the_precision_that_it_began_in(here, monkeypatch):
    break_off("prior", "out", monkeypatch)
    began, asked, make = state("prior", here / "out")["began"], [], loop.make_accelerator
    monkeypatch.setattr(loop, "make_accelerator", lambda precision: asked.append(precision) or make(precision))
    assert train("prior", "out", "--resume") == 0
    assert asked == [began["precision"]]
    assert began["precision"] in ("bf16", "no")


def test_what_a_training_of_before_took_from_its_preset_is_no_longer_claimed(here, monkeypatch):
    break_off("vqgan", "out", monkeypatch)
    earlier = state("vqgan", here / "out")
    earlier["began"]["sections"]["about"] = {"data": "NASA Blue Marble", "licence": "Apache-2.0"}
    checkpoint.save(here / "out" / "vqgan.resume.pt", earlier)
    assert train("vqgan", "out", "--resume", "--steps", "3") == 0
    provenance = checkpoint.load(here / "out" / "vqgan.pt", "vqgan")["provenance"]
    assert provenance["data"] == "data" and "licence" not in provenance
    about.write(here / "data", {"data": "noise", "licence": "CC0"})
    assert train("vqgan", "out", "--resume", "--steps", "4") == 0
    provenance = checkpoint.load(here / "out" / "vqgan.pt", "vqgan")["provenance"]
    assert (provenance["data"], provenance["licence"], provenance["steps"]) == ("noise", "CC0", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_seed_trains_and_a_larger_one_is_refused_with_the_limit(kind, here, capsys):
    assert train(kind, "out", "--preset", "tiny.toml", "--steps", "1", "--seed", str(2**64 - 1)) == 0
    assert train(kind, "other", "--preset", "tiny.toml", "--seed", str(2**64)) == 2
    assert str(2**64 - 1) in capsys.readouterr().err
    with pytest.raises(InputError, match=f"the seed must be a whole number from 0 to {2**64 - 1}, not -1"):
        vqgan_training.train(here / "data", here / "other", preset="toy", seed=-1)


@pytest.mark.parametrize(
    ("draw", "seed"),
    [
        ((0, -1, 0), 2**64 - 1009),
        ((0, 0, 0), 0),
        ((3, 7, 1), 3_027_016_145),
        ((2**64 - 1, 0, 0), 2**64 - 1_009_003_027),
    ],
)
def test_the_seed_of_a_step_never_changes(draw, seed):
    """Or else a training that is on its way would go on with other draws."""
    loop.seed_step(*draw)
    assert torch.initial_seed() == seed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", ["none", "an earlier one"])
def test_a_training_that_ended_between_state_and_checkpoint_is_finished(kind, left, here, monkeypatch, capsys):
    assert train(kind, "unbroken", *BEGAN) == 0
    break_off(kind, "broken", monkeypatch)
    earlier = (here / "broken" / f"{kind}.pt").read_bytes()
    assert train(kind, "broken", "--resume") == 0
    path = here / "broken" / f"{kind}.pt"
    path.write_bytes(earlier) if left == "an earlier one" else path.unlink()
    assert train(kind, "broken", "--resume") == 0
    wanted, found = (checkpoint.load(here / out / f"{kind}.pt", kind) for out in ("unbroken", "broken"))
    assert checkpoint.tensor_hash(found["weights"]) == checkpoint.tensor_hash(wanted["weights"])
    assert found["provenance"] == wanted["provenance"]
    capsys.readouterr()
    assert train(kind, "broken", "--resume") == 0  # and left alone from then on
    assert f"wrote broken/{kind}.pt" not in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"prior": ...}, {"began": "x"}, {"optimiser": 3}, {"step": "two"}])
def test_a_damaged_state_is_refused_in_one_line(change, here, monkeypatch, capsys):
    break_off("prior", "out", monkeypatch)
    path = here / "out" / "prior.resume.pt"
    values = checkpoint.read(path) | change
    checkpoint.save(path, {name: value for name, value in values.items() if value is not ...})
    capsys.readouterr()
    assert train("prior", "out", "--resume") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "out/prior.resume.pt is no state of " in said[0]


def test_a_training_that_diverges_ends_and_says_so(here, monkeypatch, capsys):
    monkeypatch.setattr(
        prior_training.PriorTrainer, "step", lambda self, batch, step: {"loss": float("nan") if step == 2 else 1.0}
    )
    assert train("prior", "out", *BEGAN) == 1
    assert "sundae-rt: step 3: the training diverged, " in capsys.readouterr().err
    assert checkpoint.load(here / "out" / "prior.pt", "prior")["provenance"]["steps"] == 2


def test_a_training_that_diverges_before_anything_was_saved_speaks_of_nothing_saved(here, monkeypatch, capsys):
    monkeypatch.setattr(prior_training.PriorTrainer, "step", lambda self, batch, step: {"loss": float("nan")})
    assert train("prior", "out", *BEGAN) == 1
    assert capsys.readouterr().err.endswith("begin anew with a lower learning_rate\n")
