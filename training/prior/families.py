"""The families of priors: what a preset of each says, what it builds, and how it trains and samples.

The runtime's half of a family, the rules of its sampler, is :mod:`sundae_rt.families`; the names are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from torch import Tensor, nn

from sundae_rt.errors import InputError, shown
from sundae_rt.schedule import Order, Schedule
from sundae_rt.training import config
from sundae_rt.training.prior import absorbing, sundae
from sundae_rt.training.prior.absorbing import AbsorbingConfig, AbsorbingLoss, AbsorbingPrior
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior
from sundae_rt.training.prior.sundae import Proportion, SundaeLoss


@dataclass(frozen=True, slots=True)
class PriorTraining:
    """How a prior of any family is trained.

    ``label_dropout`` is the share of images whose label is hidden, for classifier-free guidance.
    """

    steps: int = 100_000
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup: int = 1_000
    anneal: bool = True
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    label_dropout: float = 0.0
    save_every: int = 1_000

    def __post_init__(self) -> None:
        config.at_least(1, self, "steps", "batch_size", "save_every")
        config.at_least(0, self, "learning_rate", "warmup", "weight_decay")
        config.above_zero(self, "gradient_clip")  # at 0 every gradient would be cut to nothing
        config.shares(self, "label_dropout", "ema_decay")


@dataclass(frozen=True, slots=True)
class SundaeTraining(PriorTraining):
    """``unroll_steps`` is k of the loss; before step ``unroll_start`` only one step is taken, at half the price.

    ``region_share`` of the grids are noise in a region alone, as in inpainting.
    """

    unroll_steps: int = 2
    unroll_start: int = 0
    region_share: float = 0.0

    def __post_init__(self) -> None:
        PriorTraining.__post_init__(self)
        config.at_least(1, self, "unroll_steps")
        config.shares(self, "region_share")


@dataclass(frozen=True, slots=True)
class AbsorbingTraining(PriorTraining):
    """``time_steps`` is T of the loss: how many shares of masked codes there are."""

    time_steps: int = 256

    def __post_init__(self) -> None:
        PriorTraining.__post_init__(self)
        config.at_least(1, self, "time_steps")


@dataclass(frozen=True, slots=True)
class SundaeSchedule:
    """The sampling settings that a bundle of such a prior starts from; see the runtime's ``Schedule``.

    The default ``min_steps`` of 10 is lowered to ``steps``. The sheets of a training have the paper's plain sampler
    draw them, with steps, temperature and proportion alone.
    """

    steps: int = 100
    temperature: tuple[float, float] = (1.0, 1.0)
    proportion: Proportion = (0.5, 0.5)
    min_steps: int = 10
    guidance: float = 1.0
    order: Order = "uniform"
    choice_temperature: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.min_steps == 10:
            object.__setattr__(self, "min_steps", min(10, self.steps))
        Schedule(**asdict(self))  # the runtime's own rules


@dataclass(frozen=True, slots=True)
class AbsorbingSchedule:
    """The same for an absorbing prior."""

    steps: int = 256
    temperature: tuple[float, float] = (1.0, 1.0)
    guidance: float = 1.0

    def __post_init__(self) -> None:
        Schedule(min_steps=1, **asdict(self))  # the runtime's own rules


@dataclass(frozen=True, slots=True)
class Distillation(PriorTraining):
    """A preset's ``[prior.distillation]``: how a student is trained on its teacher's guidance, ``teacher_guidance``.

    ``unroll_steps``: in how many states each grid is learned; ``region_share`` of the grids are noise in a region
    alone. The other settings are those of ``[prior.training]``.
    """

    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 3e-4
    warmup: int = 20
    weight_decay: float = 0.0
    ema_decay: float = 0.99
    save_every: int = 100
    unroll_steps: int = 2
    region_share: float = 0.0
    teacher_guidance: float = 1.25

    def __post_init__(self) -> None:
        PriorTraining.__post_init__(self)
        config.at_least(1, self, "unroll_steps")
        config.shares(self, "region_share")
        Schedule(guidance=self.teacher_guidance)  # the runtime's own rules
        if self.teacher_guidance == 1:
            raise InputError("teacher_guidance is 1, which is none: a student of the guidance has nothing to learn")

    def schedule(self, own: SundaeSchedule) -> SundaeSchedule:
        """The student's: its teacher's without the guidance, which it has in itself."""
        return replace(own, guidance=1.0)


@dataclass(frozen=True, slots=True)
class Rectification(SundaeTraining):
    """A preset's ``[prior.rectification]``: how a student of few steps is trained on pairs of noise and codes.

    ``student_steps``, ``temperature``, ``order``, ``choice_temperature``: the student's schedule, as the default of its
    bundle; its proportion is "ancestral", under which, in order "uniform", as much of the noise is left before each
    step as training puts back. The other settings are those of ``[prior.training]``.
    """

    steps: int = 3_000
    batch_size: int = 16
    learning_rate: float = 8e-4
    warmup: int = 50
    ema_decay: float = 0.998
    save_every: int = 100
    student_steps: int = 4
    temperature: tuple[float, float] = (1.0, 1.0)
    order: Order = "uniform"
    choice_temperature: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        SundaeTraining.__post_init__(self)
        config.at_least(1, self, "student_steps")
        # The runtime's own rules for what a schedule may be.
        settings = {"temperature": self.temperature, "order": self.order, "choice_temperature": self.choice_temperature}
        Schedule(self.student_steps, min_steps=1, **settings)

    def schedule(self, own: SundaeSchedule) -> SundaeSchedule:
        """The student's: it takes all of its few steps, and has its teacher's guidance in itself."""
        return SundaeSchedule(
            self.student_steps,
            self.temperature,
            "ancestral",
            min_steps=self.student_steps,
            order=self.order,
            choice_temperature=self.choice_temperature,
        )


Student = Distillation | Rectification
"""How a student is trained; ``schedule`` of its teacher's schedule is its own."""


@dataclass(frozen=True, slots=True)
class PriorFamily:
    """What the trainer and the export must know of a family.

    ``config``, ``training``, ``schedule``: the dataclasses of a preset's ``[prior]``, ``[prior.training]`` and
    ``[prior.schedule]``; ``model``: built from the first; ``objective(model, training)``: a module from codes, labels
    and training step to a :class:`~sundae_rt.training.prior.denoising.DenoisingLoss`;
    ``sample(model, labels, count, steps, schedule)``: int64 ``[count, h, w]``, with torch's own random numbers;
    ``students``: the dataclasses of ``[prior.distillation]`` and ``[prior.rectification]``, by these names, where the
    family has them.
    """

    config: type[Any]
    training: type[PriorTraining]
    schedule: type[Any]
    model: Callable[[Any], nn.Module]
    objective: Callable[[Any, Any], nn.Module]
    sample: Callable[[Any, Tensor | None, int, int, Any], Tensor]
    students: Mapping[str, type[Student]] = field(default_factory=dict)


FAMILIES: Final[Mapping[str, PriorFamily]] = {
    "sundae": PriorFamily(
        config=HourglassConfig,
        training=SundaeTraining,
        schedule=SundaeSchedule,
        model=HourglassPrior,
        objective=lambda prior, how: SundaeLoss(
            prior, how.label_dropout, how.unroll_steps, how.unroll_start, how.region_share
        ),
        sample=lambda prior, labels, count, steps, schedule: sundae.sample(
            prior, labels, count, steps, schedule.temperature, schedule.proportion
        ),
        students={"distillation": Distillation, "rectification": Rectification},
    ),
    "absorbing": PriorFamily(
        config=AbsorbingConfig,
        training=AbsorbingTraining,
        schedule=AbsorbingSchedule,
        model=AbsorbingPrior,
        objective=lambda prior, how: AbsorbingLoss(prior, how.label_dropout, how.time_steps),
        sample=lambda prior, labels, count, steps, schedule: absorbing.sample(
            prior, labels, count, steps, schedule.temperature
        ),
    ),
}
"""The families by name; a preset or a checkpoint that names none is of the first."""


def family_name(values: Mapping[str, Any], where: str) -> str:
    """The family that a preset's ``[prior]`` or a prior's checkpoint names.

    Raises:
        InputError: an unknown one; it and ``where`` are named.
    """
    name = values.get("family", "sundae")
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(f"{where}: family {shown(name)} is unknown; known are {', '.join(FAMILIES)}")
    return name


def build_prior(values: Mapping[str, Any], where: str) -> nn.Module:
    """The model of a prior's checkpoint, with random weights.

    Raises:
        InputError: an unknown family, or a config that is not one of its; ``where`` is named.
    """
    family = FAMILIES[family_name(values, where)]
    return family.model(config.build(family.config, values["config"], f"{where}: config"))
