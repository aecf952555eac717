"""Trains the VQ-GAN: first codes (pixels, features, codebook), then texture (the adversary joins in)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn import functional

from sundae_rt.errors import InputError
from sundae_rt.training import checkpoint, loop, resuming, sheets
from sundae_rt.training.data import ImageFolder
from sundae_rt.training.features import PerceptualLoss
from sundae_rt.training.vqgan.drawn import DrawnCodes
from sundae_rt.training.vqgan.layers import Texture
from sundae_rt.training.vqgan.losses import (
    Discriminator,
    FeatureDiscriminator,
    PatchDiscriminator,
    adaptive_weight,
    colour_loss,
    hinge_loss,
    mean_logit,
)
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig, to_model, to_pixels
from sundae_rt.training.vqgan.preset import VQGANTraining, read_config
from sundae_rt.training.vqgan.quantiser import CodebookFollower, Quantised, perplexity


class Pictures(NamedTuple):
    """A batch of float ``[B, 3, H, W]`` in -1..1, and its feature maps, none without a perceptual network."""

    images: Tensor
    maps: list[Tensor]


class VQGANTrainer:
    """Model, adversary, optimisers and averages of one run, and the step that moves them.

    ``drawn``: codes to train the decoder on beside those of the images, as many in each step.
    """

    def __init__(
        self, sizes: VQGANConfig, how: VQGANTraining, accelerator: Accelerator, drawn: DrawnCodes | None = None
    ) -> None:
        if sizes.quantiser != "nearest" or sizes.pixel_range != (-1.0, 1.0):
            raise InputError(
                "a VQ-GAN is trained with the quantiser 'nearest' and the pixel range -1 to 1, not with "
                f"{sizes.quantiser!r} and {sizes.pixel_range[0]:g} to {sizes.pixel_range[1]:g}"
            )
        self.how, self.accelerator, self.drawn = how, accelerator, drawn
        self.model = VQGAN(sizes).to(accelerator.device, memory_format=torch.channels_last)
        self.follower = CodebookFollower(self.model.quantize, how.codebook_decay or 0.0).to(accelerator.device)
        self.perceptual = (
            PerceptualLoss(how.perceptual, how.perceptual_linear).to(accelerator.device) if how.perceptual else None
        )
        self.discriminator = self._make_discriminator().to(accelerator.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), how.learning_rate, (0.9, 0.99), weight_decay=1e-4)
        self.adversary_optimiser = torch.optim.AdamW(
            self.discriminator.parameters(), how.adversarial_learning_rate, (0.5, 0.9), weight_decay=1e-4
        )
        averaged = [
            (name, tensor)
            for name, tensor in self.model.named_parameters()
            if name.startswith(("decoder.", "post_quant_conv."))
        ]
        # Encoder and codebook are kept as they are: averaged apart from each other they would no longer match.
        self.ema = loop.EMA(averaged, how.ema_decay)
        self.usage = torch.zeros(sizes.codebook_size, device=accelerator.device)
        self.wrapped, self.wrapped_discriminator = accelerator.prepare(self.model, self.discriminator)
        self.model.train()

    def _make_discriminator(self) -> Discriminator:
        how = self.how
        patches = PatchDiscriminator(how.discriminator_channels, how.discriminator_layers, how.discriminator_high_pass)
        if not how.discriminator_features or self.perceptual is None:
            return Discriminator(patches)
        widths = self.perceptual.network.TAP_WIDTHS
        return Discriminator(patches, FeatureDiscriminator(widths, how.discriminator_features))

    def _phase(self, step: int) -> tuple[bool, int, int]:
        """Is the adversary on, and first and last step of this phase."""
        start = self.how.discriminator_start
        if start is None or step < start:
            return False, 0, start or self.how.steps
        return True, start, self.how.steps

    def step(self, pixels: Tensor, step: int) -> dict[str, float]:
        """One update on uint8 ``[B, H, W, 3]``; returns this step's figures."""
        adversarial, start, end = self._phase(step)
        frozen = adversarial and self.how.freeze_codes
        pace = loop.learning_rate(step, start, end, 1.0, self.how.warmup, self.how.anneal)
        group = self.optimiser.param_groups[0]
        group["lr"] = pace * (self.how.texture_learning_rate if adversarial else self.how.learning_rate)
        # Against an adversary that answers, less momentum: with more the two swing.
        group["betas"] = (0.5, 0.9) if adversarial else (0.9, 0.99)
        self.adversary_optimiser.param_groups[0]["lr"] = pace * self.how.adversarial_learning_rate
        for module in (self.model.encoder, self.model.quant_conv, self.model.quantize):
            module.requires_grad_(not frozen)
        self.model.quantize.embedding.requires_grad_(not frozen and self.how.codebook_decay is None)
        # Pixels alone only ever push the noise away.
        for module in self.model.decoder.modules():
            if isinstance(module, Texture):
                module.requires_grad_(adversarial)

        images = to_model(pixels.to(self.accelerator.device)).contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            reconstruction, quantised = self.wrapped(images, bypass=step < self.how.quantiser_start)
            painted = [reconstruction]
            if self.drawn is not None:
                painted.append(self.model.decode(self.drawn.some(len(images)).to(images.device)))
        reconstruction, pictures = reconstruction.float(), torch.cat(painted).float()
        strength = min(1.0, (step - start + 1) / max(self.how.adversarial_warmup, 1)) if adversarial else 0.0
        with torch.no_grad():
            real = Pictures(images, self.perceptual.taps(images) if self.perceptual else [])
        made = Pictures(pictures, self.perceptual.taps(pictures) if self.perceptual else [])
        figures = self._update_model(real, made, quantised, strength, frozen)
        if adversarial:
            figures |= self._update_discriminator(real, made)
        if not frozen and self.how.codebook_decay is not None:
            figures["revived"] = self._follow_codes(quantised)
        self.ema.update(self.model, step)
        self.usage.mul_(0.99).add_(torch.bincount(quantised.codes.flatten(), minlength=self.usage.numel()))
        error = functional.mse_loss(reconstruction.detach().clamp(-1, 1), images)
        figures["psnr"] = float(10 * torch.log10(4 / error))
        figures["used"] = float((self.usage > 0.5).sum())
        figures["perplexity"] = perplexity(self.usage)
        return figures

    def _update_model(
        self, real: Pictures, made: Pictures, quantised: Quantised, strength: float, frozen: bool
    ) -> dict[str, float]:
        # Of what was decoded from drawn codes, behind the reconstructions, there is no true picture.
        count = len(real.images)
        again = Pictures(made.images[:count], [found[:count] for found in made.maps])
        pixel = functional.l1_loss(again.images, real.images)
        feature = self.perceptual(again.maps, real.maps) if self.perceptual else pixel.new_zeros(())
        faithful = self.how.pixel_weight * pixel + self.how.perceptual_weight * feature
        loss = faithful
        if not frozen:
            loss = loss + self.how.commitment_weight * quantised.commitment
            if self.how.codebook_decay is None:
                loss = loss + self.how.codebook_weight * quantised.codebook
        figures = {"l1": float(pixel.detach()), "features": float(feature.detach())}
        if strength:
            self.discriminator.requires_grad_(False)
            fooled = -mean_logit(self.wrapped_discriminator(made.images, made.maps))
            weight = adaptive_weight(faithful, fooled, self.model.decoder.conv_out.weight)
            loss = loss + self.how.adversarial_weight * strength * weight * fooled
            if self.how.colour_weight:
                # Apart from what the adaptive weight looks at: it would raise the adversary along with it.
                colour = colour_loss(again.images, real.images, self.model.config.downsampling)
                loss = loss + self.how.colour_weight * colour
                figures["colour"] = float(colour.detach())
            self.discriminator.requires_grad_(True)
            figures["adversarial"] = float(fooled.detach())
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.how.gradient_clip)
        self.optimiser.step()
        return figures

    def _update_discriminator(self, real: Pictures, made: Pictures) -> dict[str, float]:
        images = torch.cat((real.images, made.images.detach()))
        maps = [torch.cat((found, other.detach())) for found, other in zip(real.maps, made.maps, strict=True)]
        with self.accelerator.autocast():
            sizes = [len(real.images), len(made.images)]
            logits = [each.float().split(sizes) for each in self.wrapped_discriminator(images, maps)]
        of_real, of_made = zip(*logits, strict=True)
        loss = hinge_loss(of_real, of_made)
        self.adversary_optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.discriminator.parameters(), self.how.gradient_clip)
        self.adversary_optimiser.step()
        means = {"real": of_real, "made": of_made}
        return {"hinge": float(loss.detach())} | {
            name: float(mean_logit(each).detach()) for name, each in means.items()
        }

    def _follow_codes(self, quantised: Quantised) -> float:
        rows = self.accelerator.gather(quantised.raw)
        codes = self.accelerator.gather(quantised.codes.flatten())
        revived = self.follower.update(self.model.quantize, rows, codes)
        # Which latents revive a code is drawn at random: one process decides for all.
        broadcast([self.model.quantize.embedding.weight.data, self.follower.sums, self.follower.counts])
        return float(revived)

    def state(self, step: int) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values."""
        return {
            "step": step,
            "model": self.model.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "adversary_optimiser": self.adversary_optimiser.state_dict(),
            "follower": self.follower.state_dict(),
            "average": self.ema.average,
            "usage": self.usage,
            "drawn": None if self.drawn is None else self.drawn.sha256,
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Takes up a :meth:`state`; returns its step.

        Raises:
            InputError: the state of a VQ-GAN or a discriminator of other sizes, or of a training with other drawn
                codes; drawn codes of another VQ-GAN, or before the codes are final.
        """
        for name in ("model", "discriminator", "follower"):
            resuming.load_weights(getattr(self, name), state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.adversary_optimiser.load_state_dict(state["adversary_optimiser"])
        for name, tensor in state["average"].items():
            self.ema.average[name].copy_(tensor)
        self.usage.copy_(state["usage"])
        step = int(state["step"])
        self._check_drawn(state.get("drawn"), step)
        return step

    def _check_drawn(self, before: str | None, step: int) -> None:
        if self.drawn is None:
            if before is not None:
                raise InputError(f"the training went on with drawn codes ({before[:12]}): name them with --drawn-codes")
            return
        if not (self._phase(step)[0] and self.how.freeze_codes):
            raise InputError(
                f"drawn codes are for when the codes are final (freeze_codes, from discriminator_start on), not for "
                f"step {step}: leave out --drawn-codes"
            )
        if before not in (None, self.drawn.sha256):
            raise InputError(f"the training went on with other drawn codes ({before[:12]}): name those")
        self.drawn.check(self.model)


def train(
    data: Path,
    out: Path,
    *,
    preset: str | None = None,
    steps: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    drawn_codes: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains on a folder of images and writes ``vqgan.pt``, a log and sample sheets into ``out``.

    ``preset`` is a name that ships (``earth`` where none is given) or the path of a toml file. ``steps`` ends the run
    sooner or later than the preset says, without moving the preset's phases. ``resume`` goes on from ``out``'s
    checkpoint exactly, with the same losses as a run that was never stopped; see :mod:`~sundae_rt.training.resuming`.
    ``drawn_codes``, a file of :mod:`~sundae_rt.training.vqgan.drawn`, joins what is resumed once its codes are final.

    Provenance says of the data what their folder does, see :mod:`~sundae_rt.training.about`.

    Raises:
        InputError: bad data, an unknown preset, nothing to resume from, or other data or settings than those with
            which the run to resume began; drawn codes that do not fit it.
    """
    path = out / "vqgan.pt"
    start = resuming.start(path, "vqgan", preset=preset, seed=seed, steps=steps, resume=resume)
    sizes, how = read_config(start.preset)
    if start.steps is not None:
        how = dataclasses.replace(how, steps=start.steps)
    images = ImageFolder(data, sizes.image_size)
    record = start.record(how.steps, len(images), images.fingerprint())
    run = loop.Run(start, record, how.steps, how.batch_size, how.save_every, how.augment, how.workers)
    if drawn_codes is not None and not resume:
        raise InputError("--drawn-codes are drawn with a VQ-GAN that is trained already: go on with it by --resume")
    drawn = None if drawn_codes is None else DrawnCodes(drawn_codes)
    trainer = VQGANTrainer(sizes, how, loop.begin(run), drawn)

    def save(step: int) -> None:
        provenance = {**images.about, "preset": start.preset.name, "images": len(images)}
        if drawn is not None:
            provenance["drawn_codes"] = len(drawn)
        _save(path, trainer, provenance | {"steps": step, "seed": start.seed})
        _sheet(out / "vqgan-samples.png", trainer, images)

    loop.train(run, trainer, images, save, say)
    return path


def _save(path: Path, trainer: VQGANTrainer, provenance: dict[str, Any]) -> None:
    values = {
        "format_version": checkpoint.FORMAT_VERSION,
        "kind": "vqgan",
        "config": dataclasses.asdict(trainer.model.config),
        "weights": trainer.ema.weights(trainer.model),
        "provenance": provenance | {"training": dataclasses.asdict(trainer.how), "torch": str(torch.__version__)},
    }
    checkpoint.save(path, values)


@torch.no_grad()
def _sheet(path: Path, trainer: VQGANTrainer, images: ImageFolder, count: int = 12) -> None:
    """Originals above their reconstructions by the averaged weights, evenly picked from the data."""
    model = VQGAN(trainer.model.config)
    model.load_state_dict(trainer.ema.weights(trainer.model))
    model.eval()
    pixels = torch.stack([images[index * len(images) // count] for index in range(count)])
    made = to_pixels(model.decode(model.encode(to_model(pixels))))
    sheets.write(path, torch.cat((pixels, made)), count)
