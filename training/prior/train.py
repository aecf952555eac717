"""Trains a prior of any family on a latent dataset."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from sundae_rt.errors import InputError
from sundae_rt.files import replacing
from sundae_rt.training import about, checkpoint, encoding, loop, resuming, sheets
from sundae_rt.training.pixels import CODES as PIXEL_CODES
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig
from sundae_rt.training.prior import teacher as teachers
from sundae_rt.training.prior.distillation import DistillationLoss
from sundae_rt.training.prior.families import FAMILIES, Rectification
from sundae_rt.training.prior.preset import PriorPreset, read_config
from sundae_rt.training.prior.rectification import RectificationLoss
from sundae_rt.training.prior.teacher import Teacher
from sundae_rt.training.vqgan.model import VQGAN, to_pixels


class _Grids(Dataset[dict[str, Tensor]]):
    """Code grids one by one, as sequences; the turn of :class:`StepSampler` is not applied to codes."""

    def __init__(self, dataset: encoding.LatentDataset) -> None:
        self.codes = dataset.codes.flatten(1).long()
        self.labels = dataset.label_ids.long() if dataset.label_ids is not None else None
        self.noise = dataset.noise.flatten(1).long() if dataset.noise is not None else None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        columns = {"codes": self.codes, "label": self.labels, "noise": self.noise}
        return {name: column[key[0]] for name, column in columns.items() if column is not None}


class PriorTrainer:
    """Prior, optimiser and average of one run, and the step that moves them."""

    def __init__(self, preset: PriorPreset, accelerator: Accelerator, teacher: Teacher | None = None) -> None:
        self.preset, self.accelerator = preset, accelerator
        how, family = preset.training, FAMILIES[preset.family]
        self.prior = family.model(preset.sizes).to(accelerator.device)
        if teacher is not None:
            self.prior.load_state_dict(teacher.prior.state_dict())
        if isinstance(how, Rectification):
            objective: nn.Module = RectificationLoss(self.prior, how)
        elif teacher is not None:
            objective = DistillationLoss(self.prior, teacher.prior, how)
        else:
            objective = family.objective(self.prior, how)
        self.ema = loop.EMA(self.prior.named_parameters(), how.ema_decay)
        decayed = [parameter for parameter in self.prior.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.prior.parameters() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, how.learning_rate, (0.9, 0.98), fused=True)
        self.objective = accelerator.prepare(objective)
        self.prior.train()

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, float]:
        """One update on int64 ``codes [B, T]`` and, where there are any, ``label [B]`` and ``noise [B, T]``.

        Returns its figures.
        """
        how = self.preset.training
        rate = loop.learning_rate(step, 0, how.steps, how.learning_rate, how.warmup, how.anneal)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        there = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        pairs = {"noise": there["noise"]} if "noise" in there else {}
        with self.accelerator.autocast():
            result = self.objective(there["codes"], there.get("label"), step, **pairs)
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(result.loss)
        self.accelerator.clip_grad_norm_(self.prior.parameters(), how.gradient_clip)
        self.optimiser.step()
        self.ema.update(self.prior, step)
        return {"loss": float(result.loss.detach()), "accuracy": float(result.accuracy)}

    def state(self, step: int) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values."""
        return {
            "step": step,
            "prior": self.prior.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.ema.average,
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Takes up a :meth:`state`; returns its step.

        Raises:
            InputError: the state of a prior of other sizes, or of another family.
        """
        resuming.load_weights(self.prior, state["prior"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, tensor in state["average"].items():
            self.ema.average[name].copy_(tensor)
        return int(state["step"])


def train(
    codes: Path,
    out: Path,
    *,
    preset: str | None = None,
    steps: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    distil: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains on a file of codes and writes ``prior.pt``, a log and sample sheets into ``out``.

    The VQ-GAN that made the codes is copied beside the prior, so that export finds it there. ``preset`` is a name that
    ships (``earth`` where none is given) or the path of a toml file. ``steps`` replaces the preset's number of steps,
    over which the learning rate anneals. ``resume`` goes on from ``out``'s checkpoint exactly; see
    :mod:`~sundae_rt.training.resuming`. ``distil`` is the checkpoint of a finished prior: what is trained is then its
    student, and a copy of the teacher lies beside it. On codes of images a student learns its teacher's guidance, see
    :mod:`~sundae_rt.training.prior.distillation`; on pairs that the teacher drew it learns to take few steps, see
    :mod:`~sundae_rt.training.prior.rectification`.

    Raises:
        InputError: bad codes, a preset of other sizes, nothing to resume from, other codes or settings than those
            with which the run to resume began, a teacher that does not fit, or pairs without one.
    """
    path = out / "prior.pt"
    start = resuming.start(path, "prior", preset=preset, seed=seed, steps=steps, resume=resume)
    dataset = encoding.read(codes)
    wanted = read_config(start.preset, dataset)
    teacher = teachers.find(distil, start, wanted, dataset)
    if teacher is not None:
        wanted = wanted.student("distillation" if dataset.noise is None else "rectification")
    elif dataset.noise is not None:
        raise InputError(f"{codes} holds pairs of noise and codes: name their teacher with --distil")
    wanted = wanted.lasting(start.steps)
    how, count = wanted.training, len(dataset.codes)
    record = start.record(how.steps, count, _fingerprint(dataset))
    if teacher is not None:
        record |= {"teacher": teacher.sha256}
    made_from = _made_from(dataset, teacher)
    run = loop.Run(start, record, how.steps, how.batch_size, how.save_every)
    accelerator = loop.begin(run)
    vqgan = _vqgan_beside(codes, out, dataset, teacher) if accelerator.is_main_process else None
    if teacher is not None and accelerator.is_main_process:
        teacher.copy_to(out)
    trainer = PriorTrainer(wanted, accelerator, teacher)

    def save(step: int) -> None:
        provenance = made_from | {"preset": start.preset.name, "steps": step, "seed": start.seed}
        weights = dataset.label_weights if dataset.noise is None or teacher is None else teacher.label_weights
        _save(path, trainer, dataset, weights, provenance)
        if vqgan is not None:
            _sheet(out / "prior-samples.png", trainer, vqgan)

    loop.train(run, trainer, _Grids(dataset), save, say)
    return path


def _fingerprint(dataset: encoding.LatentDataset) -> str:
    """A hash of codes, labels and noise, the same for the same ones."""
    tensors = {"codes": dataset.codes, "labels": dataset.label_ids, "noise": dataset.noise}
    return checkpoint.tensor_hash({name: tensor for name, tensor in tensors.items() if tensor is not None})


def _made_from(dataset: encoding.LatentDataset, teacher: Teacher | None) -> dict[str, Any]:
    """What a checkpoint says of its data, and of the teacher of which it is the student."""
    images = dict(dataset.about) | {"images": len(dataset.codes)}
    if teacher is None:
        return images
    said = teacher.provenance
    made_from = {"weights_sha256": teacher.sha256, "preset": said.get("preset"), "steps": said.get("steps")}
    if dataset.noise is None:
        return images | {"distilled_from": made_from | {"schedule": dataclasses.asdict(teacher.schedule)}}
    images = {name: said[name] for name in (*about.KEYS, "images") if name in said}
    return images | {"distilled_from": made_from | {"pairs": len(dataset.codes), "drawn": dataset.drawn}}


def _vqgan_beside(
    codes: Path, out: Path, dataset: encoding.LatentDataset, teacher: Teacher | None
) -> VQGAN | GreyPixels | None:
    """Copies the VQ-GAN that the codes name into ``out``, or the teacher's, and opens it; None where there is none."""
    if dataset.codes_sha256 == PIXEL_CODES:
        return GreyPixels(GreyPixelsConfig(dataset.codes.shape[1]))
    beside = out / "vqgan.pt"
    if not beside.exists():
        sources = [] if dataset.vqgan_file is None else [codes.parent / dataset.vqgan_file]
        sources += [] if teacher is None else [teacher.path.parent / "vqgan.pt"]
        source = next((path for path in sources if path.exists()), None)
        if source is not None:
            with replacing(beside) as temporary:
                shutil.copyfile(source, temporary)
    if not beside.exists():
        return None
    vqgan = encoding.load_vqgan(beside)
    if checkpoint.tensor_hash(vqgan.codes_parameters()) != dataset.codes_sha256:
        raise InputError(f"{beside} is not the VQ-GAN that made {codes}: its codes would mean other pictures")
    return vqgan


def _save(
    path: Path,
    trainer: PriorTrainer,
    dataset: encoding.LatentDataset,
    label_weights: Sequence[float] | None,
    provenance: dict[str, Any],
) -> None:
    how = dataclasses.asdict(trainer.preset.training)
    values = {
        "format_version": checkpoint.FORMAT_VERSION,
        "kind": "prior",
        "family": trainer.preset.family,
        "config": dataclasses.asdict(trainer.prior.config),
        "weights": trainer.ema.weights(trainer.prior),
        "labels": list(dataset.labels) if dataset.labels else None,
        "label_weights": list(label_weights) if label_weights else None,
        "schedule": dataclasses.asdict(trainer.preset.schedule),
        "vqgan": {
            "file": None if dataset.codes_sha256 == PIXEL_CODES else "vqgan.pt",
            "codes_sha256": dataset.codes_sha256,
        },
        "provenance": provenance | {"training": how, "torch": str(torch.__version__)},
    }
    checkpoint.save(path, values)


@torch.no_grad()
def _sheet(path: Path, trainer: PriorTrainer, vqgan: VQGAN | GreyPixels, count: int = 14) -> None:
    """Samples of the averaged weights, label by label; the step's own random numbers, so that resuming changes none."""
    family, sizes, schedule = FAMILIES[trainer.preset.family], trainer.preset.sizes, trainer.preset.schedule
    prior = family.model(sizes)
    prior.load_state_dict(trainer.ema.weights(trainer.prior))
    prior.eval()
    labels = torch.arange(count) % sizes.labels if sizes.labels else None
    grids = family.sample(prior, labels, count, min(schedule.steps, 20), schedule)
    pictures = to_pixels(vqgan.decode(grids))
    sheets.write(path, pictures, columns=count // 2)
