"""The teacher of a distillation: a finished prior, and how it is found again when the training goes on."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sundae_rt.errors import InputError, shown
from sundae_rt.files import replacing
from sundae_rt.training import checkpoint, config, encoding
from sundae_rt.training.prior.families import SundaeSchedule, build_prior, family_name
from sundae_rt.training.prior.hourglass import HourglassPrior
from sundae_rt.training.prior.preset import PriorPreset
from sundae_rt.training.resuming import Start

COPY = "teacher.pt"
"""The teacher's checkpoint beside its student's: from it a training goes on, wherever the original has gone."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """``prior``: in evaluation mode, without gradients; ``schedule``: its checkpoint's; ``sha256``: of its weights.

    ``label_weights``: of its data, or None; ``provenance``: what its checkpoint says of its training and data.
    """

    path: Path
    prior: HourglassPrior
    schedule: SundaeSchedule
    sha256: str
    label_weights: list[float] | None
    provenance: dict[str, Any]

    def copy_to(self, out: Path) -> None:
        """Puts its checkpoint beside the student's."""
        if self.path.resolve() != (out / COPY).resolve():
            with replacing(out / COPY) as temporary:
                shutil.copyfile(self.path, temporary)


def find(given: Path | None, start: Start, wanted: PriorPreset, dataset: encoding.LatentDataset) -> Teacher | None:
    """The teacher that is given, or with which the training to go on with began; None for an ordinary training.

    Raises:
        InputError: a training goes on that began with another teacher or with none; or what :func:`_read` refuses.
    """
    out, began = start.path.parent, start.began.get("teacher")
    if start.resume and given is not None and began is None:
        raise InputError(f"the training in {out} began without --distil: leave it out to go on, or name another --out")
    path = out / COPY if given is None and began is not None else given
    if path is None:
        return None
    teacher = _read(path, wanted, dataset)
    if began not in (None, teacher.sha256):
        raise InputError(
            f"the training in {out} began with another teacher (hash {began[:12]}) than {path} (hash "
            f"{teacher.sha256[:12]}): leave --distil out to go on, or name another --out"
        )
    return teacher


def _read(path: Path, wanted: PriorPreset, dataset: encoding.LatentDataset) -> Teacher:
    """Reads a teacher, and checks that the preset's student can learn from it on these codes.

    Raises:
        InputError: no prior of the family ``sundae``; other sizes than the preset's, or other labels or codes than the
            data set's, and both sides are named; or guidance without a null label.
    """
    values, where = checkpoint.load(path, "prior"), str(path)
    for name, found in ((where, family_name(values, where)), ("the preset", wanted.family)):
        if found != "sundae":
            raise InputError(f"{name} is of the family {found!r}: only priors of the family 'sundae' are distilled")
    prior = build_prior(values, where)
    for field in dataclasses.fields(prior.config):
        own, asked = getattr(prior.config, field.name), getattr(wanted.sizes, field.name)
        if own != asked and field.name != "labels":
            raise InputError(
                f"{path} has {field.name} {own}, the preset {asked}: a student has the sizes of its teacher, so name "
                "the teacher's preset with --preset"
            )
    for name, own, asked in (
        ("labels", values["labels"], list(dataset.labels) if dataset.labels else None),
        ("VQ-GAN (codes_sha256)", values["vqgan"]["codes_sha256"], dataset.codes_sha256),
    ):
        if own != asked:
            raise InputError(f"{path} learned other codes than these: its {name} is {shown(own)}, not {shown(asked)}")
    guidance = wanted.students["distillation"].teacher_guidance
    if dataset.noise is None and not prior.config.null_label:
        raise InputError(f"teacher_guidance is {guidance}, but {path} has no null label, which guidance needs")
    checkpoint.load_weights(prior, values["weights"], where)
    prior.eval().requires_grad_(False)
    schedule = config.build(SundaeSchedule, values["schedule"], f"{path}: schedule")
    sha256 = checkpoint.tensor_hash(values["weights"])
    return Teacher(path, prior, schedule, sha256, values["label_weights"], values["provenance"])
