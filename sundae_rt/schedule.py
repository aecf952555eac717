"""The schedule of one image: how many steps it takes, and how temperature and sample proportion anneal over them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundae_rt.errors import InputError
from sundae_rt.validation import real, real_pair, whole

MAX_STEPS: Final = 2**16
"""The most steps of a schedule: a mistyped number, or one in somebody's file, must not run for ever."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each step of sampling does: temperature and sample proportion, linear from the first step to the last.

    Attributes:
        steps: unroll steps at most, 1 .. `MAX_STEPS`.
        temperature: (first, last) step's temperature, each finite and >= 0; 0 takes the most probable code.
        proportion: (first, last) step's sample proportion, each in (0, 1]: the chance of each code to be written.
        min_steps: an image may stop by itself once it has taken so many, 1 .. steps.
        guidance: strength of classifier-free guidance, finite and >= 0; 1 is off.

    Raises:
        InputError: a value out of range, named.
    """

    steps: int = 20
    temperature: tuple[float, float] = (1.0, 0.7)
    proportion: tuple[float, float] = (1.0, 0.5)
    min_steps: int = 10
    guidance: float = 1.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "steps", whole("steps", self.steps, 1, MAX_STEPS))
        put(self, "temperature", real_pair("temperature", self.temperature, 0.0))
        put(self, "proportion", real_pair("proportion", self.proportion, 0.0, 1.0, above_low=True))
        put(self, "min_steps", whole("min_steps", self.min_steps, 1, MAX_STEPS))
        put(self, "guidance", real("guidance", self.guidance, 0.0))
        if self.min_steps > self.steps:
            raise InputError(f"min_steps must be at most steps ({self.steps}), not {self.min_steps}")

    def with_changes(
        self,
        *,
        steps: int | None = None,
        temperature: float | Sequence[float] | None = None,
        proportion: float | Sequence[float] | None = None,
        min_steps: int | None = None,
        guidance: float | None = None,
    ) -> "Schedule":
        """This schedule with the given values in place of its own; one number stands for a pair of equal ones.

        A `min_steps` of its own that `steps` undercuts is lowered to it; one that was given is not.
        """
        if steps is not None and min_steps is None:
            min_steps = min(self.min_steps, whole("steps", steps, 1, MAX_STEPS))
        changes = {
            "steps": steps,
            "temperature": temperature,
            "proportion": proportion,
            "min_steps": min_steps,
            "guidance": guidance,
        }
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def temperature_at(self, step: int) -> float:
        """The temperature of a step, 0 .. steps - 1."""
        return self._annealed(self.temperature, step)

    def proportion_at(self, step: int) -> float:
        """The sample proportion of a step, 0 .. steps - 1."""
        return self._annealed(self.proportion, step)

    def _annealed(self, ends: tuple[float, float], step: int) -> float:
        first, last = ends
        if step == 0:
            return first
        if step == self.steps - 1:
            return last
        return first + (last - first) * step / (self.steps - 1)
