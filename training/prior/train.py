"""Trains a prior of any family on a latent dataset."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sundae_rt.errors import InputError
from sundae_rt.training import checkpoint, config, encoding, loop
from sundae_rt.training.pixels import CODES as PIXEL_CODES
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig
from sundae_rt.training.prior.families import FAMILIES, PriorTraining, family_name
from sundae_rt.training.vqgan.model import VQGAN, to_pixels


@dataclass(frozen=True, slots=True)
class PriorPreset:
    """A preset's ``[prior]`` section, read and checked; its parts are what the family asks for."""

    sizes: Any
    training: PriorTraining
    schedule: Any
    family: str = "sundae"


def read_config(preset: str, dataset: encoding.LatentDataset | None = None) -> PriorPreset:
    """Sizes, training and default schedule of a shipped preset.

    With a dataset, its vocabulary and latent grid must be the preset's; the number of labels is the dataset's, and a
    preset's null label and label dropout hold only where there are labels.

    Raises:
        InputError: the two differ; both sides are named.
    """
    values = config.read_preset(preset, "prior")
    where = f"preset {preset!r} [prior]"
    named = family_name(values, where)
    family = FAMILIES[named]
    values.pop("family", None)
    training = config.build(family.training, values.pop("training", {}), f"{where[:-1]}.training]")
    schedule = config.build(family.schedule, values.pop("schedule", {}), f"{where[:-1]}.schedule]")
    if dataset is not None:
        values["labels"] = len(dataset.labels or ())
    if not values.get("labels"):
        values["null_label"] = False
    sizes = config.build(family.config, values, where)
    if dataset is not None:
        for name, wanted, found in (
            ("vocabulary", sizes.vocabulary, dataset.vocabulary),
            ("latent_grid", sizes.latent_grid, tuple(dataset.codes.shape[1:])),
        ):
            if wanted != found:
                raise InputError(f"{where} has {name} {wanted}, the codes have {found}")
    if training.label_dropout and sizes.labels and not sizes.null_label:
        raise InputError(f"{where}: label_dropout needs null_label = true")
    return PriorPreset(sizes, training, schedule, named)


class _Grids(Dataset[dict[str, Tensor]]):
    """Code grids one by one, as sequences; the turn of :class:`StepSampler` is not applied to codes."""

    def __init__(self, dataset: encoding.LatentDataset) -> None:
        self.codes = dataset.codes.flatten(1).long()
        self.labels = dataset.label_ids.long() if dataset.label_ids is not None else None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        item = {"codes": self.codes[key[0]]}
        return item if self.labels is None else item | {"label": self.labels[key[0]]}


class PriorTrainer:
    """Prior, optimiser and average of one run, and the step that moves them."""

    def __init__(self, preset: PriorPreset, accelerator: Accelerator) -> None:
        self.preset, self.accelerator = preset, accelerator
        how, family = preset.training, FAMILIES[preset.family]
        self.prior = family.model(preset.sizes).to(accelerator.device)
        self.ema = loop.EMA(self.prior.named_parameters(), how.ema_decay)
        decayed = [parameter for parameter in self.prior.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.prior.parameters() if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, how.learning_rate, (0.9, 0.98))
        self.objective = accelerator.prepare(family.objective(self.prior, how))
        self.prior.train()

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, float]:
        """One update on int64 ``codes [B, T]`` and, where there are labels, ``label [B]``; returns its figures."""
        how, labels = self.preset.training, batch.get("label")
        rate = loop.learning_rate(step, 0, how.steps, how.learning_rate, how.warmup, how.anneal)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        device = self.accelerator.device
        with self.accelerator.autocast():
            result = self.objective(batch["codes"].to(device), labels.to(device) if labels is not None else None, step)
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
        checkpoint.load_weights(self.prior, state["prior"], "the training to resume is of another preset")
        self.optimiser.load_state_dict(state["optimiser"])
        for name, tensor in state["average"].items():
            self.ema.average[name].copy_(tensor)
        return int(state["step"])


def train(
    codes: Path,
    out: Path,
    *,
    preset: str,
    steps: int | None = None,
    resume: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains on a file of codes and writes ``prior.pt``, a log and sample sheets into ``out``.

    The VQ-GAN that made the codes is copied beside the prior, so that export finds it there. ``steps`` replaces the
    preset's number of steps, over which the learning rate anneals. ``resume`` goes on from ``out``'s checkpoint
    exactly.

    Raises:
        InputError: bad codes, a preset of other sizes, or nothing to resume from.
    """
    dataset = encoding.read(codes)
    wanted = read_config(preset, dataset)
    if steps is not None:
        wanted = dataclasses.replace(wanted, training=dataclasses.replace(wanted.training, steps=steps))
    how, path = wanted.training, out / "prior.pt"
    run = loop.Run(path, how.steps, how.batch_size, how.save_every, seed, resume)
    accelerator = loop.begin(run)
    vqgan = _vqgan_beside(codes, out, dataset) if accelerator.is_main_process else None
    trainer = PriorTrainer(wanted, accelerator)

    def save(step: int) -> None:
        provenance = {**config.about(preset), "preset": preset, "images": len(dataset.codes)}
        _save(path, trainer, dataset, provenance | {"steps": step, "seed": seed})
        if vqgan is not None:
            _sheet(out / "prior-samples.png", trainer, vqgan)

    loop.train(run, trainer, _Grids(dataset), save)
    if trainer.accelerator.is_main_process:
        say(f"wrote {path}")
    return path


def _vqgan_beside(codes: Path, out: Path, dataset: encoding.LatentDataset) -> VQGAN | GreyPixels | None:
    """Copies the VQ-GAN that the codes name into ``out`` and opens it; None where it is not to be found."""
    if dataset.codes_sha256 == PIXEL_CODES:
        return GreyPixels(GreyPixelsConfig(dataset.codes.shape[1]))
    beside = out / "vqgan.pt"
    if not beside.exists() and dataset.vqgan_file is not None:
        source = codes.parent / dataset.vqgan_file
        if source.exists():
            shutil.copyfile(source, beside)
    if not beside.exists():
        return None
    vqgan = encoding.load_vqgan(beside)
    if checkpoint.tensor_hash(vqgan.codes_parameters()) != dataset.codes_sha256:
        raise InputError(f"{beside} is not the VQ-GAN that made {codes}: its codes would mean other pictures")
    return vqgan


def _save(path: Path, trainer: PriorTrainer, dataset: encoding.LatentDataset, provenance: dict[str, Any]) -> None:
    how = dataclasses.asdict(trainer.preset.training)
    values = {
        "format_version": checkpoint.FORMAT_VERSION,
        "kind": "prior",
        "family": trainer.preset.family,
        "config": dataclasses.asdict(trainer.prior.config),
        "weights": trainer.ema.weights(trainer.prior),
        "labels": list(dataset.labels) if dataset.labels else None,
        "label_weights": list(dataset.label_weights) if dataset.label_weights else None,
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
    rows = [torch.cat(tuple(row), 1) for row in pictures.split((count + 1) // 2)]
    Image.fromarray(torch.cat(rows, 0).numpy()).save(path)
