"""Distillation: what a student learns of its teacher's guidance, and that it then draws so without any."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, describe, encoding  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.distillation import DistillationLoss  # noqa: E402
from sundae_rt.training.prior.families import Distillation, SundaeSchedule, build_prior  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig  # noqa: E402

CONFIG = HourglassConfig(11, (4, 4), (1, 1, 1), (16,), (1,), labels=3, null_label=True)


def silent(line):
    pass


# The objective


class Sure(torch.nn.Module):
    """A stand-in for a prior: nearly sure of one code, another without a label; it remembers what it was given."""

    config = CONFIG

    def __init__(self, labelled, unlabelled, height=50.0):
        super().__init__()
        self.codes, self.height = (labelled, unlabelled), torch.nn.Parameter(torch.tensor(height))
        self.seen = []

    def forward(self, codes, label):
        self.seen.append((codes, label))
        likely = torch.where(label == CONFIG.labels, self.codes[1], self.codes[0])
        return self.height * torch.nn.functional.one_hot(likely, 11).float()[:, None].expand(*codes.shape, 11)


def objective(student, teacher, **settings):
    return DistillationLoss(
        student, teacher.requires_grad_(False), Distillation(**{"teacher_guidance": 3.0} | settings)
    )


CODES, LABELS = torch.full((3, 16), 5), torch.tensor([0, 1, 2])


def test_a_student_that_is_its_teacher_has_nothing_to_learn_where_the_teacher_is_sure():
    torch.manual_seed(0)
    assert float(objective(Sure(7, 7), Sure(7, 7))(CODES, LABELS, 0).loss.detach()) == pytest.approx(0, abs=1e-6)
    other = objective(Sure(6, 6), Sure(7, 7))(CODES, LABELS, 0)
    assert float(other.loss.detach()) == pytest.approx(50, abs=1e-3)
    assert float(other.accuracy) == 0


@pytest.mark.parametrize(("guidance", "code"), [(0.0, 8), (1.5, 7), (3.0, 7)])
def test_the_target_is_what_the_guided_teacher_says(guidance, code):
    loss = objective(Sure(6, 6), Sure(7, 8), teacher_guidance=guidance)
    logits = loss._guided(CODES, LABELS)
    assert torch.allclose(logits[..., 7], torch.tensor(50.0 * guidance))
    assert torch.allclose(logits[..., 8], torch.tensor(50.0 * (1 - guidance)))
    _, target = loss._unrolled(CODES, LABELS)
    assert (target.argmax(-1) == code).all()


def test_the_states_are_those_of_ordinary_training():
    torch.manual_seed(0)
    student, teacher = Sure(6, 6), Sure(7, 8, height=1.0)
    loss = objective(student, teacher, unroll_steps=2)
    states, target = loss._unrolled(CODES, LABELS)
    assert len(states) == 2
    assert ((states[0] != 5).float().mean(1) > 0).any()  # noise on the real codes; then what the guided teacher drew
    assert (states[1] == 7).float().mean() > 0.4
    logits = torch.zeros(11)
    logits[7], logits[8] = 3.0, -2.0
    assert torch.allclose(target, logits.softmax(-1).expand_as(target))
    assert target.shape == (6, 16, 11)
    loss(CODES, LABELS, 0).loss.backward()
    assert student.seen[-1][0].shape == (6, 16) and torch.equal(student.seen[-1][1], LABELS.repeat(2))
    assert student.height.grad is not None and teacher.height.grad is None


def test_outside_of_its_region_a_grid_keeps_its_codes_in_every_state():
    torch.manual_seed(0)
    (first, second), _ = objective(Sure(6, 6), Sure(7, 7), region_share=1.0)._unrolled(
        CODES.repeat(99, 1), LABELS.repeat(99)
    )
    kept = second == 5
    assert 0.3 < kept.float().mean() < 0.7 and (first == 5)[kept].all()
    assert (first != 5)[~kept].any()


def test_a_student_keeps_the_schedule_without_its_guidance():
    own = SundaeSchedule(20, (0.9, 0.9), "ancestral", min_steps=10, guidance=1.5, order="confidence")
    assert Distillation(teacher_guidance=1.5).schedule(own) == SundaeSchedule(
        20, (0.9, 0.9), "ancestral", min_steps=10, order="confidence"
    )


def test_label_dropout_hides_the_label_from_student_and_teacher_alike():
    torch.manual_seed(0)
    student, teacher = Sure(6, 6), Sure(7, 8)
    objective(student, teacher, label_dropout=1.0)(CODES, LABELS, 0)
    for _, label in (*student.seen, *teacher.seen):
        assert (label == CONFIG.labels).all()


# Settings


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("teacher_guidance = -1", "guidance must be"),
        ("teacher_guidance = inf", "guidance must be"),
        ("teacher_guidance = 1", "teacher_guidance is 1, which is none"),
        ("batch_size = 0", "batch_size is 0: it must be at least 1"),
        ("unroll_steps = 0", "unroll_steps is 0: it must be at least 1"),
        ("region_share = nan", "region_share is nan: it must be a share, from 0 to 1"),
        ("steps_of_student = 4", r"\[prior.distillation\]: unknown key 'steps_of_student'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(setting, told, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "toy"\n[prior.distillation]\n{setting}')
    with pytest.raises(InputError, match=told) as refused:
        describe("prior", str(tmp_path / "mine.toml"))
    assert "\n" not in str(refused.value)


def test_a_preset_describes_its_students_and_an_absorbing_one_has_none(tmp_path):
    described = describe("prior", "toy")
    assert described["distillation"]["teacher_guidance"] == 1.5
    assert described["rectification"]["student_steps"] == 4
    assert not {"distillation", "rectification"} & describe("prior", "toy-absorbing").keys()
    (tmp_path / "mine.toml").write_text('extends = "toy-absorbing"\n[prior.distillation]\nsteps = 4')
    with pytest.raises(InputError, match="unknown key 'distillation'"):
        describe("prior", str(tmp_path / "mine.toml"))


# What it is for


def loaded(path):
    values = checkpoint.load(path, "prior")
    prior = build_prior(values, str(path)).eval()
    prior.load_state_dict(values["weights"])
    return prior


def test_a_student_of_real_crops_comes_closer_to_its_guided_teacher(prior, codes, tmp_path):
    student = prior_training.train(codes, tmp_path / "student", preset="toy", distil=prior, say=silent)
    assert (student.parent / "prior-samples.png").exists()
    dataset = encoding.read(codes)
    grids, labels = dataset.codes.flatten(1).long()[:64], dataset.label_ids.long()[:64]
    apart = []
    for path in (prior, student):
        torch.manual_seed(0)
        with torch.no_grad():
            apart.append(
                float(
                    DistillationLoss(loaded(path), loaded(prior), Distillation(teacher_guidance=1.5))(
                        grids, labels, 0
                    ).loss
                )
            )
    assert apart[1] < 0.8 * apart[0]
