"""Distillation: what a student learns from its teacher, and that it then needs fewer steps."""

import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from stripes import STRIPES, write_stripes  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, describe  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.denoising import DenoisingLoss  # noqa: E402
from sundae_rt.training.prior.distillation import DistillationLoss  # noqa: E402
from sundae_rt.training.prior.families import Distillation, SundaeSchedule, build_prior  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig  # noqa: E402
from sundae_rt.training.prior.sundae import sample  # noqa: E402

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


def objective(student, teacher, schedule=None, real=None, **settings):
    how = Distillation(**{"student_steps": 4, "teacher_steps": 12, "real_share": 0.0} | settings)
    stand_in = SimpleNamespace(prior=teacher, schedule=schedule or SundaeSchedule(12, (1.0, 1.0), (1.0, 1.0)))
    return DistillationLoss(student, stand_in, how, real)


CODES, LABELS = torch.full((3, 16), 5), torch.tensor([0, 1, 2])


def test_student_and_teacher_share_the_steps_of_a_chain_and_every_place_between_two_steps_is_learned_from():
    starts = set()
    for seed in range(16):
        torch.manual_seed(seed)
        student, teacher = Sure(6, 6), Sure(7, 7)
        objective(student, teacher)(CODES, LABELS, 0)
        *own, learning = student.seen
        taken = len(own)
        assert len(teacher.seen) == 12 - 3 * taken
        states = learning[0].split(3)
        assert len(states) == 4 - taken
        # The first is where the student stopped, and was nothing of the real codes; the teacher made all others.
        assert (states[0] == 6).all() if taken else states[0].unique().numel() > 1
        assert all((state == 7).all() for state in states[1:])
        assert torch.equal(learning[1], LABELS.repeat(len(states)))
        starts.add(taken)
    assert starts == {0, 1, 2, 3}


def test_a_student_that_is_its_teacher_has_nothing_to_learn_where_the_teacher_is_sure():
    torch.manual_seed(0)
    assert float(objective(Sure(7, 7), Sure(7, 7))(CODES, LABELS, 0).loss.detach()) == pytest.approx(0, abs=1e-6)
    other = objective(Sure(6, 6), Sure(7, 7))(CODES, LABELS, 0)
    assert float(other.loss.detach()) == pytest.approx(50, abs=1e-3)
    assert float(other.accuracy) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("proportion", [1.0, 0.25])
def test_the_target_is_how_the_teachers_last_step_distributes_the_codes(temperature, proportion):
    """Those that it does not write stay as they are."""
    torch.manual_seed(0)
    schedule = SundaeSchedule(12, (1.0, temperature), (1.0, proportion))
    teacher = Sure(7, 7, height=1.0)
    _, target = objective(Sure(6, 6), teacher, schedule)._chain(CODES, LABELS)
    before = torch.nn.functional.one_hot(teacher.seen[-1][0], 11)
    logits = torch.zeros(11).index_fill(0, torch.tensor(7), 1.0)
    written = torch.softmax(logits / temperature, -1) if temperature else logits
    assert torch.allclose(target, proportion * written + (1 - proportion) * before)


@pytest.mark.parametrize(("guidance", "code", "calls"), [(1.0, 7, 3), (0.0, 8, 6), (3.0, 7, 6)])
def test_the_teachers_guidance_is_in_what_the_student_learns(guidance, code, calls):
    torch.manual_seed(0)
    teacher = Sure(7, 8)
    loss = objective(Sure(6, 6), teacher, teacher_guidance=guidance)
    _, target = loss._chain(CODES, LABELS)
    assert (target.argmax(-1) == code).all()
    assert len(teacher.seen[-1][0]) == calls
    logits = loss._guided(LABELS)(CODES)
    assert torch.allclose(logits[..., 7], torch.tensor(50.0 * guidance))
    assert torch.allclose(logits[..., 8], torch.tensor(50.0 * (1 - guidance)))


def test_a_student_of_as_many_steps_learns_the_guidance_in_the_states_of_ordinary_training():
    torch.manual_seed(0)
    student, teacher = Sure(6, 6), Sure(7, 8, height=1.0)
    loss = objective(student, teacher, student_steps=12, teacher_guidance=3.0, unroll_steps=2)
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


def test_a_student_of_as_many_steps_keeps_the_schedule_without_its_guidance():
    own = SundaeSchedule(20, (0.9, 0.9), "ancestral", min_steps=10, guidance=1.5, order="confidence")
    how = Distillation(student_steps=20, teacher_steps=20, teacher_guidance=1.5)
    assert how.schedule(own) == SundaeSchedule(20, (0.9, 0.9), "ancestral", min_steps=10, order="confidence")
    assert Distillation(student_steps=4).schedule(own) == SundaeSchedule(4, (1.0, 1.0), (1.0, 1.0), min_steps=4)


def test_label_dropout_hides_the_label_from_student_and_teacher_alike():
    torch.manual_seed(0)
    student, teacher = Sure(6, 6), Sure(7, 8)
    objective(student, teacher, label_dropout=1.0)(CODES, LABELS, 0)
    for _, label in (*student.seen, *teacher.seen):
        assert (label == CONFIG.labels).all()


def test_real_codes_have_their_share_of_the_loss():
    torch.manual_seed(0)
    seen = []

    def real(codes, labels, step):
        seen.append((codes, labels, step))
        return DenoisingLoss(torch.tensor(3.0), torch.tensor(0.0))

    result = objective(Sure(6, 6), Sure(7, 7), real=real, real_share=0.25)(CODES, LABELS, 9)
    assert float(result.loss.detach()) == pytest.approx(0.75 * 50 + 0.25 * 3, abs=1e-3)
    assert seen == [(CODES, LABELS, 9)]


def test_only_the_student_has_gradients():
    student, teacher = Sure(6, 6), Sure(7, 7)
    objective(student, teacher)(CODES, LABELS, 0).loss.backward()
    assert student.height.grad is not None and teacher.height.grad is None


# Settings


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("student_steps = 0", "steps must be a whole number from 1"),
        ("teacher_steps = 3", r"teacher_steps is 3: it must be at least student_steps \(4\)"),
        ("teacher_steps = 4", r"a student of as many steps as its teacher \(4\) learns its guidance alone"),
        ("teacher_guidance = -1", "guidance must be"),
        ("teacher_guidance = inf", "guidance must be"),
        ("temperature = [1.0, -0.5]", "temperature must be"),
        ("temperature = 1.0", "temperature = 1.0 is not a tuple"),
        ("proportion = [1.0, 0.0]", "proportion must be"),
        ("real_share = 1.0", "real_share is 1.0: it must be from 0 up and less than 1"),
        ("real_share = nan", "real_share is nan: it must be from 0 up and less than 1"),
        ("batch_size = 0", "batch_size is 0: it must be at least 1"),
        ("steps_of_student = 4", r"\[prior.distillation\]: unknown key 'steps_of_student'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(setting, told, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "toy"\n[prior.distillation]\n{setting}')
    with pytest.raises(InputError, match=told) as refused:
        describe("prior", str(tmp_path / "mine.toml"))
    assert "\n" not in str(refused.value)


def test_a_preset_describes_its_distillation_and_an_absorbing_one_has_none(tmp_path):
    assert describe("prior", "toy")["distillation"]["student_steps"] == 4
    assert "distillation" not in describe("prior", "toy-absorbing")
    (tmp_path / "mine.toml").write_text('extends = "toy-absorbing"\n[prior.distillation]\nstudent_steps = 4')
    with pytest.raises(InputError, match="unknown key 'distillation'"):
        describe("prior", str(tmp_path / "mine.toml"))


# What it is for


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A teacher of stripes, and its student: the checkpoints."""
    folder = tmp_path_factory.mktemp("stripes")
    (folder / "stripes.toml").write_text(STRIPES)
    codes = folder / "codes.safetensors"
    write_stripes(codes)
    how = {"preset": str(folder / "stripes.toml"), "say": silent}
    teacher = prior_training.train(codes, folder / "teacher", **how)
    return teacher, prior_training.train(codes, folder / "student", distil=teacher, **how)


def loaded(path):
    values = checkpoint.load(path, "prior")
    prior = build_prior(values, str(path)).eval()
    prior.load_state_dict(values["weights"])
    return prior


def fitting(path, steps, schedule):
    """How often neighbours fit in 512 samples, which are of all kinds alike."""
    torch.manual_seed(0)
    grids = sample(loaded(path), None, 512, steps, schedule.temperature, schedule.proportion)
    shares = grids[:, 0, 0].bincount(minlength=16) / 512
    assert torch.special.entr(shares).sum() > 0.9 * math.log(16)  # it has not settled on a few that are easy
    across, down = (grids.diff(dim=axis) % 16 == step for axis, step in ((2, 3), (1, 1)))
    return float((across.float().mean() + down.float().mean()) / 2)


def test_a_students_few_steps_are_better_than_its_teachers(stripes):
    teacher, student = stripes
    own = {path: SundaeSchedule(**checkpoint.load(path, "prior")["schedule"]) for path in stripes}
    assert fitting(teacher, 20, own[teacher]) > fitting(teacher, 4, own[teacher]) + 0.2  # there is something to gain
    assert fitting(student, 4, own[student]) > fitting(teacher, 4, own[teacher]) + 0.02
    cooled = SundaeSchedule(4, (1.0, 0.7), (1.0, 1.0))
    assert fitting(student, 4, cooled) > fitting(teacher, 4, cooled) + 0.05


@torch.no_grad()
def divergence(model, teacher, schedule, temperature=1.0):
    """How far a model is, in nats a code, from the ends of chains that are the same for whatever model."""
    torch.manual_seed(0)
    labels = torch.arange(64) % teacher.config.labels
    chains = objective(teacher, teacher, schedule, teacher_steps=10)
    apart = []
    for _ in range(8):  # of several beginnings
        states, target = chains._chain(torch.zeros(64, 64, dtype=torch.long), labels)
        for state in states:
            likely = (model(state, labels) / temperature).log_softmax(-1)
            apart.append(torch.nn.functional.kl_div(likely, target, reduction="none").sum(-1).mean())
    return float(torch.stack(apart).mean())


def test_a_student_of_real_crops_learns_and_is_exported_with_its_few_steps(prior, codes, tmp_path):
    pytest.importorskip("onnxscript")
    import sundae_rt
    from sundae_rt.export import export_checkpoint

    student = prior_training.train(codes, tmp_path / "student", preset="toy", distil=prior, say=silent)
    assert (student.parent / "prior-samples.png").exists()
    teacher, schedule = loaded(prior), SundaeSchedule(**checkpoint.load(prior, "prior")["schedule"])
    # More than that the ends of chains are cooler than what its teacher says at once.
    cooled = [divergence(teacher, teacher, schedule, temperature) for temperature in (1.0, 0.9, 0.8, 0.7)]
    assert divergence(loaded(student), teacher, schedule) < min(cooled)
    bundle = export_checkpoint(student, out=tmp_path / "bundle", say=silent)
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        assert runtime.manifest.provenance["prior"]["distilled_from"]["preset"] == "toy"
        assert [sample.steps for sample in runtime.generate(n=2)] == [4, 4]
