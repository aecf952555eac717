"""What a training starts with, and what its resume state remembers of that.

On ``--resume`` whatever the command line leaves out is as the training began, the precision of its products too, and
whatever it states must be: a resumed run has the numbers of an unbroken one, or does not run. ``--steps`` and the
number of processes alone may differ, and a line says what that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sundae_rt.errors import InputError, shown
from sundae_rt.noise import MAX_SEED
from sundae_rt.training import checkpoint, config
from sundae_rt.validation import whole


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts or goes on with.

    ``path``: its checkpoint; ``kind``: the preset's section, ``vqgan`` or ``prior``; ``steps``: None where they are the
    preset's; ``began``: the :meth:`record` of the training to go on with, empty where there is none.
    """

    path: Path
    kind: str
    preset: config.Preset
    seed: int
    steps: int | None
    resume: bool
    began: dict[str, Any]

    def record(self, steps: int, images: int, fingerprint: str) -> dict[str, Any]:
        """What the resume state keeps, given the length of the training, and the number and a hash of its images.

        Raises:
            InputError: the training to go on with began on others.
        """
        data = {"images": images, "data_sha256": fingerprint}
        if self.began and any(self.began[name] != value for name, value in data.items()):
            raise InputError(
                f"the training in {self.path.parent} began on {_data(self.began)}, this is {_data(data)}: go on with "
                "the same, or name another --out"
            )
        sections = {self.kind: self.preset.sections[self.kind]}
        return {"preset": self.preset.name, "sections": sections, "seed": self.seed, "steps": steps, **data}

    def other_end(self, steps: int) -> str | None:
        """A line for the user where the training began with another number of steps."""
        if not self.began or self.began["steps"] == steps:
            return None
        return (
            f"going on to step {steps} instead of {self.began['steps']}: from here on a learning rate that anneals "
            "does so towards the new end"
        )

    def other_processes(self, processes: int) -> str | None:
        """A line for the user where the state was written by another number of processes.

        Every step still has its batch and its learning rate. But each process draws random numbers of its own, and sums
        over parts of a batch round as the parts do.
        """
        before = self.began.get("processes", processes)  # earlier versions did not remember
        if before == processes:
            return None
        return (
            f"going on with {_count(processes)} instead of {before}: each step keeps its images, but not its random "
            "draws, so the numbers will not be exactly those of an unbroken training"
        )


def start(path: Path, kind: str, *, preset: str | None, seed: int | None, steps: int | None, resume: bool) -> Start:
    """Settles what the training with the checkpoint ``path`` starts with; None is what the command line left out.

    Raises:
        InputError: an earlier checkpoint is there and not resumed, or there is none to resume; a preset that is none;
            a preset or seed with which the training to resume did not begin.
    """
    if seed is not None:
        seed = whole("the seed", seed, 0, MAX_SEED)
    state = checkpoint.resume_path(path)
    if resume and not state.exists():
        raise InputError(f"nothing to resume: {state} does not exist")
    if path.exists() and not resume:
        raise InputError(f"{path} exists: name another folder, or go on with --resume")
    began = checkpoint.read(state, mmap=True).get("began", {}) if resume else {}
    if not isinstance(began, dict):
        raise InputError(f"{state} is no state of a training: what it began with is {shown(began)}")
    if not began:  # nor did the states of earlier versions remember
        chosen = config.load_preset(config.DEFAULT if preset is None else preset)
        return Start(path, kind, chosen, seed or 0, steps, resume, {})
    own = config.Preset(began["preset"], began["sections"])
    if seed not in (None, began["seed"]):
        raise _differs(path, "--seed", began["seed"], seed)
    if preset is not None:
        given = config.load_preset(preset)
        if given.name != own.name:
            raise _differs(path, "--preset", own.name, given.name)
        if given.section(kind) != own.section(kind):
            raise InputError(
                f"the preset {preset} has changed since the training in {path.parent} began: leave --preset out to go "
                "on as it began, or name another --out"
            )
    return Start(path, kind, own, began["seed"], began["steps"] if steps is None else steps, resume, began)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fills a module from a resume state.

    Raises:
        InputError: weights that are no finite numbers; or a module of other sizes, for the state is of a version that
            did not remember its preset.
    """
    where = "the training to resume"
    try:
        checkpoint.check_fit(module, weights, where)
    except InputError as error:
        raise InputError(f"{where} began with another preset: name its own with --preset") from error
    checkpoint.load_weights(module, weights, where)


def _differs(path: Path, option: str, old: object, new: object) -> InputError:
    return InputError(
        f"the training in {path.parent} began with {option} {old}, not {new}: leave it out to go on, or name another "
        "--out"
    )


def _count(processes: int) -> str:
    return f"{processes} process" if processes == 1 else f"{processes} processes"


def _data(data: dict[str, Any]) -> str:
    return f"{data['images']} images (hash {data['data_sha256'][:12]})"
