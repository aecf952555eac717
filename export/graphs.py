"""The modules that become a bundle's graphs: what the design calls denoiser, logits, decoder and encoder.

Everything of a step that touches logits happens inside, so that only codes and uniforms cross the border. Priors of all
families make the same graphs. What a family's mask is to its prior is one more code to the graph: the first beyond the
vocabulary, which may come in and is never proposed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sundae_rt.training.vqgan.model import VQGAN, to_model, to_pixels


class Denoiser(nn.Module):
    """One step of an unlabelled prior.

    Outputs: the codes that ``update`` lets through, int32 ``[B, T]``; the proposal for every place, int32 ``[B, T]``;
    the confidence in the codes that came in, f32 ``[B, T]``, which is their probability, and 0 where the mask came in;
    and the logits, which only the export's checks see.
    """

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, temperature: Tensor, uniform: Tensor, update: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs: int32 ``[B, T]``, f32 ``[B]``, f32 ``[B, T]``, bool ``[B, T]``."""
        return _decide(self.prior(codes), codes, temperature, uniform, update)


class LabelledDenoiser(nn.Module):
    """The same over a labelled prior, with classifier-free guidance (Ho and Salimans 2022).

    Logits are ``null + guidance * (labelled - null)``. Only rows whose guidance is not 1 are run a second time, with
    the null label, in the same batch: guidance 1 costs nothing.
    """

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, codes: Tensor, temperature: Tensor, uniform: Tensor, update: Tensor, label: Tensor, guidance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :class:`Denoiser`, with int32 ``label [B]`` and f32 ``guidance [B]``."""
        if not self.prior.config.null_label:
            return _decide(self.prior(codes, label), codes, temperature, uniform, update)
        guided = torch.nonzero(guidance != 1).squeeze(1)
        null = torch.full_like(guided, self.prior.config.labels, dtype=torch.int32)
        both = self.prior(torch.cat((codes, codes[guided])), torch.cat((label, null)))
        labelled, unlabelled = both[: codes.shape[0]], both[codes.shape[0] :]
        strength = guidance[guided][:, None, None]
        mixed = unlabelled + strength * (labelled[guided] - unlabelled)
        logits = labelled.index_copy(0, guided, mixed)
        return _decide(logits, codes, temperature, uniform, update)


class Logits(nn.Module):
    """The prior's logits themselves: f32 ``[B, T, V]``."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """int32 codes ``[B, T]``, and int32 ``label [B]`` where the prior has labels."""
        return self.prior(codes, label).float()


class Decoder(nn.Module):
    """Codes to pixels: int32 ``[B, T]`` to uint8 ``[B, H, W, 3]``."""

    def __init__(self, vqgan: VQGAN, grid: tuple[int, int]) -> None:
        super().__init__()
        self.vqgan, self.grid = vqgan, grid

    def forward(self, codes: Tensor) -> Tensor:
        """Clamped and rounded to 0..255."""
        return to_pixels(self.vqgan.decode(codes.view(-1, *self.grid)), self.vqgan.config.pixel_range)


class Encoder(nn.Module):
    """Pixels to codes: uint8 ``[B, H, W, 3]`` to int32 ``[B, T]`` (equation 1 of the paper)."""

    def __init__(self, vqgan: VQGAN) -> None:
        super().__init__()
        self.vqgan = vqgan

    def forward(self, images: Tensor) -> Tensor:
        """The code of every latent."""
        return self.vqgan.encode(to_model(images, self.vqgan.config.pixel_range)).flatten(1).to(torch.int32)


def _decide(
    logits: Tensor, codes: Tensor, temperature: Tensor, uniform: Tensor, update: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws a proposal by inverse CDF, writes it where allowed, and tells how probable the incoming codes were."""
    logits = logits.float()
    shifted = logits - logits.amax(-1, keepdim=True)
    greedy = (temperature == 0)[:, None]
    heat = torch.where(temperature == 0, 1.0, temperature)[:, None, None]
    cumulative = torch.softmax(shifted / heat, -1).cumsum(-1)
    # The first index that passes `uniform` is the count of those that do not; rounding may leave none: then the last.
    # Floats count a vocabulary exactly, and ONNX Runtime sums them far faster than 64-bit integers.
    passed = (cumulative <= uniform[..., None]).float().sum(-1).clamp(max=logits.shape[-1] - 1)
    proposal = torch.where(greedy, logits.argmax(-1).to(torch.int32), passed.to(torch.int32))
    # A mask is no code of the vocabulary: the model never says that it is right.
    masked = codes >= logits.shape[-1]
    known = torch.where(masked, 0, codes).long()
    confidence = torch.softmax(shifted, -1).gather(-1, known[..., None]).squeeze(-1).masked_fill(masked, 0.0)
    return torch.where(update, proposal, codes), proposal, confidence, logits
