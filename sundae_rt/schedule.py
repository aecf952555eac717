"""The schedule of one image: how many steps it takes, and how temperature and sample proportion anneal over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypedDict, Unpack, get_args

from sundae_rt.errors import InputError, shown
from sundae_rt.validation import one_of, real, real_pair, whole

MAX_STEPS: Final = 2**16
"""The most steps of a schedule: a mistyped number, or one in somebody's file, must not run for ever."""

MAX_GUIDANCE: Final = 1e6
"""The strongest guidance: far beyond any use, and far from where logits cease to be finite."""

Stop = Literal["proposal", "published"]
"""What an image is judged on that may stop by itself: the model's whole proposal, or what was written of it."""

Ancestral = Literal["ancestral"]
"""In the place of a proportion: the one by which the reverse of uniform-noise diffusion turns noise into codes."""

Order = Literal["uniform", "confidence"]
"""How the positions that a step writes are chosen: by chance, or those whose codes the model is least confident of."""


class Settings(TypedDict, total=False):
    """The keyword arguments of `generate`, `stream` and `inpaint` that change the schedule; see `Schedule`.

    What is left out, or None, is as in the manifest's default schedule. `temperature`, `proportion` and
    `choice_temperature` are a pair (first step, last step), or one number for both; `proportion` may be "ancestral"
    instead. The family "absorbing" has `steps`, `temperature` and `guidance` alone, and refuses the others.
    """

    steps: int | None
    temperature: float | Sequence[float] | None
    proportion: float | Sequence[float] | Ancestral | None
    min_steps: int | None
    guidance: float | None
    stop: Stop | None
    order: Order | None
    choice_temperature: float | Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each step of sampling does: temperature and sample proportion, linear from the first step to the last.

    Attributes:
        steps: denoising steps at most, 1 .. `MAX_STEPS`.
        temperature: (first, last) step's temperature, each finite and >= 0; 0 takes the most probable code.
        proportion: (first, last) step's sample proportion, each in (0, 1]: the chance of each editable code to be
            written, or with order "confidence" the share of them that is (rounded, at least one). "ancestral": step k
            of N, counted from 0, has 1 / (N - k), by which the reverse of uniform-noise diffusion turns noise into
            codes where the share of noise falls linearly, to none after the last step.
        min_steps: how long an image goes on at least. With stop "proposal" it may stop once it has taken so many steps,
            1 .. steps. With stop "published" it is the published setting, 0 .. steps: an image may stop after step n,
            counted from 0, where n >= min_steps, hence once it has taken one step more.
        guidance: strength of classifier-free guidance, 0 .. `MAX_GUIDANCE`; 1 is off.
        stop: "proposal": an image stops when the model proposes no change at any editable position. "published": when
            a step changed nothing, as in the published code; with small proportions that stops unfinished images.
        order: "uniform": a step writes each editable position by chance. "confidence": those whose codes the model is
            least confident of; of equal ones the first.
        choice_temperature: (first, last) step's, each finite and >= 0, for order "confidence" alone: the scale of the
            Gumbel noise that is added to the logarithm of the confidence before positions are compared, as MaskGIT
            does; 0 is off.

    Raises:
        InputError: a value out of range, named.
    """

    steps: int = 20
    temperature: tuple[float, float] = (1.0, 0.7)
    proportion: tuple[float, float] | Ancestral = (1.0, 0.5)
    min_steps: int = 10
    guidance: float = 1.0
    stop: Stop = "proposal"
    order: Order = "uniform"
    choice_temperature: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "steps", whole("steps", self.steps, 1, MAX_STEPS))
        put(self, "temperature", real_pair("temperature", self.temperature, 0.0))
        put(self, "proportion", _proportion(self.proportion))
        put(self, "stop", one_of("stop", self.stop, get_args(Stop)))
        put(self, "order", one_of("order", self.order, get_args(Order)))
        put(self, "min_steps", whole("min_steps", self.min_steps, _fewest(self.stop), MAX_STEPS))
        put(self, "guidance", real("guidance", self.guidance, 0.0, MAX_GUIDANCE))
        put(self, "choice_temperature", real_pair("choice_temperature", self.choice_temperature, 0.0))
        if self.min_steps > self.steps:
            raise InputError(f"min_steps must be at most steps ({self.steps}), not {self.min_steps}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Schedule":
        """The default schedule with these settings in place of its own, all of which must have a value.

        Raises:
            InputError: a value is None or out of range, by its name.
        """
        for name, value in settings.items():
            if value is None:
                raise InputError(f"{name} must have a value, not null")
        return cls().with_changes(**settings)

    def with_changes(self, **settings: Unpack[Settings]) -> "Schedule":
        """This schedule with the given values in place of its own; one number stands for a pair of equal ones.

        A `min_steps` of its own that `steps` undercuts is lowered to it, and one that `stop` does not know is raised;
        one that was given is not.

        Raises:
            InputError: a value out of range, named.
            TypeError: a setting that there is none.
        """
        changes: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        if "min_steps" not in changes:
            most = whole("steps", changes.get("steps", self.steps), 1, MAX_STEPS)
            changes["min_steps"] = min(max(self.min_steps, _fewest(changes.get("stop", self.stop))), most)
        return replace(self, **changes)

    def temperature_at(self, step: int) -> float:
        """The temperature of a step, 0 .. steps - 1."""
        return self._annealed(self.temperature, step)

    def proportion_at(self, step: int) -> float:
        """The sample proportion of a step, 0 .. steps - 1."""
        if self.proportion == "ancestral":
            return 1 / (self.steps - step)
        return self._annealed(self.proportion, step)

    def choice_temperature_at(self, step: int) -> float:
        """The choice temperature of a step, 0 .. steps - 1."""
        return self._annealed(self.choice_temperature, step)

    def _annealed(self, ends: tuple[float, float], step: int) -> float:
        first, last = ends
        if step == 0:
            return first
        if step == self.steps - 1:
            return last
        return first + (last - first) * step / (self.steps - 1)


def _proportion(value: object) -> tuple[float, float] | Ancestral:
    if isinstance(value, str):
        if value != "ancestral":
            raise InputError(
                f"proportion must be a number, a pair of numbers (start, end) or ancestral, not {shown(value)}"
            )
        return "ancestral"
    return real_pair("proportion", value, 0.0, 1.0, above_low=True)


def _fewest(stop: Stop) -> int:
    """The smallest `min_steps`: the published rule counts steps from 0."""
    return 0 if isinstance(stop, str) and stop == "published" else 1
