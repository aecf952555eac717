"""The quantisers: the nearest code, with a codebook that follows its latents (EMA), or the most probable one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Quantised:
    """What the quantiser made of a batch.

    ``latents``: float ``[B, D, h, w]``, codebook rows with the straight-through gradient; ``codes``: int64
    ``[B, h, w]``; ``commitment`` and ``codebook``: scalar losses (Van den Oord et al. 2017); ``raw``: the latents
    before quantisation, float ``[B*h*w, D]``, detached, from which the codebook is updated.
    """

    latents: Tensor
    codes: Tensor
    commitment: Tensor
    codebook: Tensor
    raw: Tensor


class VectorQuantiser(nn.Module):
    """A codebook of ``size`` vectors of ``dim`` channels.

    With ``unit_norm`` latents and codebook rows are compared, and handed on, on the unit sphere (Yu et al. 2022).
    """

    def __init__(self, size: int, dim: int, unit_norm: bool) -> None:
        super().__init__()
        self.unit_norm = unit_norm
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def vectors(self) -> Tensor:
        """The codebook as it is compared and looked up: float ``[size, dim]``."""
        return functional.normalize(self.embedding.weight, dim=1) if self.unit_norm else self.embedding.weight

    def _rows(self, latents: Tensor) -> Tensor:
        rows = rearrange(latents, "b d h w -> (b h w) d").float()
        return functional.normalize(rows, dim=1) if self.unit_norm else rows

    def codes(self, latents: Tensor) -> Tensor:
        """Float ``[B, D, h, w]`` to the index of the nearest code, int64 ``[B, h, w]``."""
        batch, _, height, _ = latents.shape
        return rearrange(self._nearest_row(self._rows(latents)), "(b h w) -> b h w", b=batch, h=height)

    def _nearest_row(self, rows: Tensor) -> Tensor:
        vectors = self.vectors()
        # |x - e|^2 without |x|^2, which is the same for every code.
        return (vectors.square().sum(1) - 2 * rows @ vectors.t()).argmin(1)

    def embed(self, codes: Tensor) -> Tensor:
        """Integer codes ``[B, h, w]`` to their vectors, float ``[B, D, h, w]``."""
        return rearrange(functional.embedding(codes, self.vectors()), "b h w d -> b d h w")

    def forward(self, latents: Tensor, bypass: bool = False) -> Quantised:
        """Float ``[B, D, h, w]`` to :class:`Quantised`; with ``bypass`` the latents pass as they are."""
        batch, _, height, _ = latents.shape
        rows = self._rows(latents)
        flat_codes = self._nearest_row(rows)
        codes = rearrange(flat_codes, "(b h w) -> b h w", b=batch, h=height)
        chosen = functional.embedding(flat_codes, self.vectors())
        straight_through = rows if bypass else rows + (chosen - rows).detach()
        return Quantised(
            latents=rearrange(straight_through, "(b h w) d -> b d h w", b=batch, h=height),
            codes=codes,
            commitment=functional.mse_loss(rows, chosen.detach()),
            codebook=functional.mse_loss(chosen, rows.detach()),
            raw=rows.detach(),
        )


class GumbelQuantiser(nn.Module):
    """A codebook of ``size`` vectors of ``dim`` channels, and a projection that gives each code a logit.

    For inference alone (the published ``GumbelVQ``): the code is the most probable one, no noise is added, and there is
    no ``forward`` to train by.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, size, 1)
        self.embedding = nn.Embedding(size, dim)

    def codes(self, latents: Tensor) -> Tensor:
        """Float ``[B, D, h, w]`` to the index of the largest logit, int64 ``[B, h, w]``."""
        return self.proj(latents).argmax(1)

    def embed(self, codes: Tensor) -> Tensor:
        """Integer codes ``[B, h, w]`` to their vectors, float ``[B, D, h, w]``."""
        return rearrange(self.embedding(codes), "b h w d -> b d h w")


class CodebookFollower(nn.Module):
    """Moves each code to the running mean of the latents that chose it, and revives codes that none chooses.

    ``decay`` is the EMA's; a code whose running count falls under ``revive_below`` of its fair share (all latents of
    a step over all codes) is put on a random latent of the current batch.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, quantiser: VectorQuantiser, decay: float = 0.99, revive_below: float = 0.25) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        weight = quantiser.embedding.weight
        self.register_buffer("counts", torch.zeros(weight.shape[0]))
        self.register_buffer("sums", torch.zeros_like(weight))

    @torch.no_grad()
    def update(self, quantiser: VectorQuantiser, rows: Tensor, codes: Tensor) -> int:
        """One step.

        Args:
            quantiser: the owner of the codebook, changed in place.
            rows: float ``[N, D]``, this step's latents of all processes, as the quantiser compares them.
            codes: int64 ``[N]``, the codes that they chose.

        Returns:
            How many codes were revived.
        """
        size = self.counts.shape[0]
        count = torch.bincount(codes, minlength=size).to(self.counts)
        self.counts.lerp_(count, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, rows), 1 - self.decay)
        fair = rows.shape[0] / size
        dead = self.counts < self.revive_below * fair
        revived = int(dead.sum())
        if revived:
            picks = torch.randint(rows.shape[0], (revived,), device=rows.device)
            self.sums[dead] = rows[picks] * fair
            self.counts[dead] = fair
        means = self.sums / self.counts.clamp_min(1e-8).unsqueeze(1)
        quantiser.embedding.weight.copy_(functional.normalize(means, dim=1) if quantiser.unit_norm else means)
        return revived


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often each code is used: 1 to the codebook's size. ``counts``: ``[size]``."""
    share = counts.float() / counts.sum().clamp_min(1)
    return float(torch.exp(-(share * share.clamp_min(1e-10).log()).sum()))
