"""Whose student a prior may be, what it says of that, and that its training goes on exactly."""

import dataclasses
import re
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from stripes import STRIPES  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.training import checkpoint, encoding  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with labelled codes, a preset of one's own, and a teacher of it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    codes, labels = torch.randint(16, (6, 4, 4), dtype=torch.int32), torch.tensor([0, 1, 0, 1, 0, 1], dtype=torch.int32)
    encoding.write(
        tmp_path / "codes.safetensors", encoding.LatentDataset(codes, 16, ("a", "b"), labels, None, "unknown")
    )
    few = re.sub(r"(?<=^steps = )(100|200|300)$", "4", STRIPES, flags=re.MULTILINE)
    few = re.sub(r"(?<=^save_every = )(100|200|300)$", "2", few, flags=re.MULTILINE)
    (tmp_path / "tiny.toml").write_text(few.replace("batch_size = 32", "batch_size = 2"))
    assert train("teacher", "--preset", "tiny.toml") == 0
    return tmp_path


TEACHER, BEGAN = ("--distil", "teacher/prior.pt"), ("--preset", "tiny.toml", "--seed", "5")


def train(out, *options):
    return run(["train", "prior", "--codes", "codes.safetensors", "--out", out, *options])


def break_off(monkeypatch):
    """Distils until Ctrl-C at step 2 of 4."""
    take_step = prior_training.PriorTrainer.step

    def interrupted(self, batch, step):
        if step == 2:
            raise KeyboardInterrupt
        return take_step(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(prior_training.PriorTrainer, "step", interrupted)
        assert train("broken", *TEACHER, *BEGAN) == 130


def refused(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_student_is_an_ordinary_prior_that_says_whose_it_is(here):
    assert train("student", *TEACHER, *BEGAN) == 0
    teacher, student = (checkpoint.load(here / name / "prior.pt", "prior") for name in ("teacher", "student"))
    assert student["config"] == teacher["config"] and student["labels"] == ["a", "b"]
    assert student["schedule"] == teacher["schedule"] | {"guidance": 1.0}
    made_from = student["provenance"]["distilled_from"]
    assert made_from["weights_sha256"] == checkpoint.tensor_hash(teacher["weights"])
    assert (made_from["preset"], made_from["steps"]) == ("tiny.toml", 4)
    assert made_from["schedule"] == teacher["schedule"]
    assert student["provenance"]["training"]["teacher_guidance"] == 1.5
    assert (student["provenance"]["steps"], student["provenance"]["seed"]) == (4, 5)


def test_a_student_starts_as_its_teacher(here, monkeypatch):
    began = []
    take_step = prior_training.PriorTrainer.step
    monkeypatch.setattr(
        prior_training.PriorTrainer,
        "step",
        lambda self, batch, step: (
            began.append({name: tensor.clone() for name, tensor in self.prior.state_dict().items()}),
            take_step(self, batch, step),
        )[1],
    )
    assert train("student", *TEACHER, *BEGAN) == 0
    weights = checkpoint.load(here / "teacher" / "prior.pt", "prior")["weights"]
    assert checkpoint.tensor_hash(began[0]) == checkpoint.tensor_hash(weights)
    assert checkpoint.tensor_hash(began[1]) != checkpoint.tensor_hash(weights)


def test_resume_alone_goes_on_exactly_and_without_the_original_teacher(here, monkeypatch):
    assert train("unbroken", *TEACHER, *BEGAN) == 0
    break_off(monkeypatch)
    shutil.rmtree(here / "teacher")
    (here / "tiny.toml").unlink()
    assert train("broken", "--resume") == 0
    unbroken, resumed = (checkpoint.read(here / name / "prior.resume.pt") for name in ("unbroken", "broken"))
    assert resumed["step"] == 4
    for part in ("prior", "average"):
        for name, tensor in unbroken[part].items():
            assert torch.equal(tensor, resumed[part][name]), name
    assert resumed["began"] == unbroken["began"]


def write_pairs(here, seed):
    """The same codes again, with noise beside them."""
    torch.manual_seed(seed)
    dataset = encoding.read(here / "codes.safetensors")
    noise = torch.randint(16, dataset.codes.shape, dtype=torch.int32)
    encoding.write(here / "codes.safetensors", dataclasses.replace(dataset, noise=noise, drawn={"seed": 0}))


def test_a_student_of_pairs_goes_on_exactly_and_only_with_its_own_noise(here, monkeypatch, capsys):
    write_pairs(here, 0)
    assert train("unbroken", *TEACHER, *BEGAN) == 0
    break_off(monkeypatch)
    assert train("broken", "--resume") == 0
    unbroken, resumed = (checkpoint.read(here / name / "prior.resume.pt") for name in ("unbroken", "broken"))
    assert all(torch.equal(tensor, resumed["prior"][name]) for name, tensor in unbroken["prior"].items())
    write_pairs(here, 1)
    capsys.readouterr()
    assert train("broken", "--resume") == 1
    assert "other" in refused(capsys)


def test_a_student_of_pairs_has_its_teachers_data_and_shares_of_labels(here):
    write_pairs(here, 0)
    values = checkpoint.read(here / "teacher" / "prior.pt")
    changed = values["provenance"] | {"data": "what the teacher saw", "images": 77}
    checkpoint.save(here / "teacher" / "prior.pt", values | {"label_weights": [0.9, 0.1], "provenance": changed})
    assert train("student", *TEACHER, *BEGAN) == 0
    student = checkpoint.read(here / "student" / "prior.pt")
    assert student["label_weights"] == [0.9, 0.1]
    assert (student["provenance"]["data"], student["provenance"]["images"]) == ("what the teacher saw", 77)
    assert student["provenance"]["distilled_from"]["pairs"] == 6


def test_a_distillation_goes_on_with_its_own_teacher_alone(here, monkeypatch, capsys):
    break_off(monkeypatch)
    assert train("other", "--preset", "tiny.toml", "--seed", "1") == 0
    capsys.readouterr()
    assert train("broken", "--resume", "--distil", "other/prior.pt") == 1
    assert "the training in broken began with another teacher (hash " in refused(capsys)
    (here / "broken" / "teacher.pt").unlink()
    assert train("broken", "--resume") == 1
    assert "broken/teacher.pt" in refused(capsys)
    assert train("broken", "--resume", *TEACHER) == 0
    assert (here / "broken" / "teacher.pt").exists()


def test_an_ordinary_training_does_not_go_on_as_a_distillation(here, capsys):
    assert train("teacher", "--resume", "--steps", "6", *TEACHER) == 1
    assert "the training in teacher began without --distil" in refused(capsys)


def edited(here, **changes):
    """A teacher with other fields."""
    values = checkpoint.read(here / "teacher" / "prior.pt")
    checkpoint.save(here / "edited.pt", values | changes)
    return ("--distil", "edited.pt")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": ["b", "a"]}, "learned other codes than these: its labels is ['b', 'a'], not ['a', 'b']"),
        ({"vqgan": {"file": None, "codes_sha256": "other"}}, "its VQ-GAN (codes_sha256) is 'other', not 'unknown'"),
        ({"kind": "vqgan"}, "edited.pt is no prior checkpoint"),
        ({"family": "absorbing", "config": {}}, "only priors of the family 'sundae' are distilled"),
        ({"schedule": {"stepz": 3}}, "edited.pt: schedule: unknown key 'stepz'"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(changes, told, here, capsys):
    capsys.readouterr()
    assert train("student", *edited(here, **changes), *BEGAN) == 1
    assert told in refused(capsys)
    assert not (here / "student").exists()


def test_a_preset_of_other_sizes_or_another_family_is_refused(here, capsys):
    text = (here / "tiny.toml").read_text()
    (here / "tiny.toml").write_text(text.replace("dims = [32]", "dims = [48]"))
    capsys.readouterr()
    assert train("student", *TEACHER, *BEGAN) == 1
    assert "teacher/prior.pt has dims (32,), the preset (48,): a student has the sizes of its teacher" in refused(
        capsys
    )
    (here / "tiny.toml").write_text('extends = "toy-absorbing"\n[prior]\nvocabulary = 16\nlatent_grid = [4, 4]')
    assert train("student", *TEACHER, *BEGAN) == 1
    assert "the preset is of the family 'absorbing': only priors of the family 'sundae'" in refused(capsys)


def test_guidance_needs_a_teacher_with_a_null_label(here, capsys):
    dataset = encoding.read(here / "codes.safetensors")
    encoding.write(here / "codes.safetensors", dataclasses.replace(dataset, labels=None, label_ids=None))
    assert train("unlabelled", "--preset", "tiny.toml") == 0
    capsys.readouterr()
    assert train("student", "--distil", "unlabelled/prior.pt", *BEGAN) == 1
    assert "teacher_guidance is 1.5, but unlabelled/prior.pt has no null label, which guidance needs" in refused(capsys)
