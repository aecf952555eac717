"""Rectification: what a student of few steps learns of pairs of noise and codes, and that it then needs few."""

import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from stripes import STRIPES, write_stripes  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, describe, encoding  # noqa: E402
from sundae_rt.training.prior import pairs  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.families import Rectification, SundaeSchedule, build_prior  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig  # noqa: E402
from sundae_rt.training.prior.rectification import RectificationLoss  # noqa: E402
from sundae_rt.training.prior.sundae import sample  # noqa: E402

CONFIG = HourglassConfig(11, (4, 4), (1, 1, 1), (16,), (1,), labels=3, null_label=True)


def silent(line):
    pass


# The objective


class Listening(torch.nn.Module):
    """A stand-in for a prior that is nearly sure of code 7; it remembers what it was given."""

    config = CONFIG

    def __init__(self):
        super().__init__()
        self.height, self.seen = torch.nn.Parameter(torch.tensor(50.0)), []

    def forward(self, codes, label):
        self.seen.append((codes, label))
        return self.height * torch.nn.functional.one_hot(torch.full_like(codes, 7), 11).float()


def learned(step=0, count=512, **settings):
    """The loss and what the student was shown, of pairs of code 5 and noise of codes 0 to 4."""
    torch.manual_seed(0)
    student = Listening()
    loss = RectificationLoss(student, Rectification(**settings))
    codes = torch.full((count, 16), 5)
    return loss(codes, torch.arange(count) % 3, step, noise_of(codes)), student


def noise_of(codes):
    """Other noise in each row and at each position, and never a code of the grid."""
    return (torch.arange(len(codes))[:, None] + torch.arange(16)) % 5


def test_what_is_noisy_holds_the_noise_of_its_own_pair_and_place():
    result, student = learned(unroll_steps=1)
    ((state, label),) = student.seen
    noisy = state == noise_of(state)
    assert 0 < noisy.sum() < noisy.numel() and (noisy | (state == 5)).all()
    assert torch.equal(label, torch.arange(512) % 3)
    assert float(result.loss.detach()) == pytest.approx(50, abs=1e-3)
    result.loss.backward()
    assert student.height.grad is not None


def test_half_of_the_grids_are_as_noisy_as_those_before_one_of_the_students_steps():
    _, student = learned(unroll_steps=1, student_steps=1, count=4096)
    assert (student.seen[0][0] != 5).all(1).float().mean() == pytest.approx(0.5 + 0.5 / 17, abs=0.03)


def test_from_unroll_start_on_it_learns_on_what_it_told_itself_with_less_noise():
    assert len(learned(step=9, unroll_steps=2, unroll_start=10)[1].seen) == 1
    _, student = learned(step=10, unroll_steps=2, unroll_start=10)
    (first, _), (second, _) = student.seen
    assert ((second == noise_of(second)) | (second == 7)).all()
    assert (second != 7).float().mean() < 0.7 * (first != 5).float().mean()


def test_outside_of_its_region_a_grid_keeps_its_codes_in_every_step():
    _, student = learned(unroll_steps=2, region_share=1.0)
    (first, _), (second, _) = student.seen
    kept = second == 5
    assert 0.3 < kept.float().mean() < 0.7 and (first == 5)[kept].all()
    assert (first != 5)[~kept].any()


def test_label_dropout_hides_labels():
    _, student = learned(label_dropout=1.0)
    assert all((label == CONFIG.labels).all() for _, label in student.seen)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("student_steps = 0", "student_steps is 0: it must be at least 1"),
        ("temperature = [1.0, -0.5]", "temperature must be"),
        ("temperature = 1.0", "temperature = 1.0 is not a tuple"),
        ('order = "random"', "order = .random. is not"),
        ("choice_temperature = [-1.0, 0.0]", "choice_temperature must be"),
        ("batch_size = 0", "batch_size is 0: it must be at least 1"),
        ("region_share = 1.5", "region_share is 1.5: it must be a share, from 0 to 1"),
        ("label_dropout = -0.1", "label_dropout is -0.1: it must be a share, from 0 to 1"),
        ("proportion = [1.0, 1.0]", r"\[prior.rectification\]: unknown key 'proportion'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(setting, told, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "toy"\n[prior.rectification]\n{setting}')
    with pytest.raises(InputError, match=told) as refused:
        describe("prior", str(tmp_path / "mine.toml"))
    assert "\n" not in str(refused.value)


# What it is for


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A teacher of stripes, and its student of few steps: the checkpoints."""
    pytest.importorskip("onnxscript")
    from sundae_rt.export import export_checkpoint

    folder = tmp_path_factory.mktemp("stripes")
    (folder / "stripes.toml").write_text(STRIPES)
    codes = folder / "codes.safetensors"
    write_stripes(codes)
    how = {"preset": str(folder / "stripes.toml"), "say": silent}
    teacher = prior_training.train(codes, folder / "teacher", **how)
    bundle = export_checkpoint(teacher, out=folder / "bundle", say=silent)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["provenance"]["vqgan"] = {"codes_sha256": "unknown"}  # as the codes say; there is none to export
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    encoding.write(folder / "pairs.safetensors", pairs.draw(bundle, 4096))
    return teacher, prior_training.train(folder / "pairs.safetensors", folder / "student", distil=teacher, **how)


def fitting(path, steps):
    """How often neighbours fit in 512 samples, which are of all kinds alike."""
    values = checkpoint.load(path, "prior")
    prior, schedule = build_prior(values, str(path)).eval(), SundaeSchedule(**values["schedule"])
    prior.load_state_dict(values["weights"])
    torch.manual_seed(0)
    grids = sample(prior, None, 512, steps, schedule.temperature, schedule.proportion)
    shares = grids[:, 0, 0].bincount(minlength=16) / 512
    assert torch.special.entr(shares).sum() > 0.9 * math.log(16)  # it has not settled on a few that are easy
    across, down = (grids.diff(dim=axis) % 16 == step for axis, step in ((2, 3), (1, 1)))
    return float((across.float().mean() + down.float().mean()) / 2)


def test_a_students_few_steps_are_better_than_its_teachers(stripes):
    teacher, student = stripes
    few = fitting(teacher, 4)
    assert fitting(teacher, 20) > few + 0.1  # there is something to gain
    assert fitting(student, 4) > few + 0.06


def test_a_student_says_whose_it_is_and_takes_its_few_steps(stripes, tmp_path):
    import sundae_rt
    from sundae_rt.export import export_checkpoint

    teacher, student = (checkpoint.load(path, "prior") for path in stripes)
    made_from = student["provenance"]["distilled_from"]
    assert made_from["weights_sha256"] == checkpoint.tensor_hash(teacher["weights"])
    assert (made_from["pairs"], made_from["drawn"]["seed"]) == (4096, 0)
    assert made_from["drawn"]["schedule"]["temperature"] == [0.5, 0.5]
    with sundae_rt.load(export_checkpoint(stripes[1], out=tmp_path / "bundle", say=silent)) as runtime:
        schedule = runtime.schedule()
    assert (schedule.steps, schedule.min_steps, schedule.proportion) == (4, 4, "ancestral")


def test_pairs_without_a_teacher_are_refused(stripes, tmp_path):
    folder = stripes[0].parent.parent
    with pytest.raises(InputError, match="holds pairs of noise and codes: name their teacher with --distil"):
        prior_training.train(
            folder / "pairs.safetensors", tmp_path / "out", preset=str(folder / "stripes.toml"), say=silent
        )
