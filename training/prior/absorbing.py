"""The prior of *Unleashing Transformers* (Bond-Taylor et al. 2021): a flat transformer, and absorbing diffusion.

Codes are masked instead of replaced by others: the mask is one more code that the transformer takes, and never one that
it gives. It sees no time step, for how much is masked tells it all. See :mod:`sundae_rt.families` for how it samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.errors import InputError
from sundae_rt.schedule import Schedule
from sundae_rt.training import config
from sundae_rt.training.prior.denoising import DenoisingLoss, drop_labels, propose
from sundae_rt.training.prior.layers import Layer, initialise


@dataclass(frozen=True, slots=True)
class AbsorbingConfig:
    """Sizes of an absorbing prior.

    ``vocabulary``: codes, without the mask; ``latent_grid``: ``(h, w)``; ``dim``: width of the tokens; ``heads``:
    attention heads of ``dim / heads`` channels each; ``depth``: layers; ``labels``: classes, 0 for none;
    ``null_label``: one more class that stands for "any".

    Raises:
        InputError: sizes that do not go together, by name.
    """

    vocabulary: int
    latent_grid: tuple[int, int]
    dim: int = 512
    heads: int = 8
    depth: int = 24
    labels: int = 0
    null_label: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise InputError(f"vocabulary is {self.vocabulary}: a prior needs at least 2 codes")
        if min(self.latent_grid) < 1:
            raise InputError(f"the latent grid {self.latent_grid} must be at least 1 both ways")
        config.at_least(1, self, "dim", "heads", "depth")
        if self.dim % self.heads:
            raise InputError(f"dim {self.dim} does not divide into {self.heads} heads")
        config.at_least(0, self, "labels")
        config.shares(self, "dropout")
        if self.null_label and not self.labels:
            raise InputError("null_label needs labels")

    @property
    def mask_code(self) -> int:
        """The code that stands for a place not yet known, one beyond the codebook."""
        return self.vocabulary


class AbsorbingPrior(nn.Module):
    """The denoiser: logits of every code, given all codes of a grid, some of them masked."""

    def __init__(self, config: AbsorbingConfig) -> None:
        super().__init__()
        self.config = config
        dim, places = config.dim, config.latent_grid[0] * config.latent_grid[1]
        self.code_embedding = nn.Embedding(config.vocabulary + 1, dim)
        self.label_embedding = nn.Embedding(config.labels + config.null_label, dim) if config.labels else None
        self.position_embedding = nn.Embedding(places, dim)
        self.layers = nn.ModuleList(
            Layer(dim, config.heads, dropout=config.dropout, head_width=dim // config.heads, bias=True)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.to_logits = nn.Linear(dim, config.vocabulary, bias=False)
        initialise(self)

    def forward(self, codes: Tensor, label: Tensor | None = None) -> Tensor:
        """Integer codes ``[B, T]`` in raster order, masked ones :attr:`AbsorbingConfig.mask_code`, to logits.

        ``label``: ``[B]``, where the prior has labels; the null label, where there is one, is number ``config.labels``.
        Returns float ``[B, T, vocabulary]``.
        """
        x = self.code_embedding(codes) + self.position_embedding.weight
        if self.label_embedding is not None:
            x = x + self.label_embedding(label)[:, None]
        for layer in self.layers:
            x = layer(x)
        return self.to_logits(self.norm(x))


class AbsorbingLoss(nn.Module):
    """The paper's reweighted evidence bound, as one module.

    A time t is uniform in 1..T (``time_steps``), and each code is masked with probability t / T. The evidence bound
    weighs the cross-entropy of the masked codes by 1 / t. Reweighted, the factor is (T - t + 1) / T: less for grids of
    which nearly nothing is known, and most where the codes at hand tell most. The published code has (T - t) / T, with
    which a grid that is masked whole teaches nothing, though sampling starts from one.
    """

    def __init__(self, prior: AbsorbingPrior, label_dropout: float, time_steps: int) -> None:
        super().__init__()
        self.prior, self.label_dropout, self.time_steps = prior, label_dropout, time_steps

    def forward(self, codes: Tensor, labels: Tensor | None, step: int) -> DenoisingLoss:
        """Masks, and asks for what is masked.

        Args:
            codes: int64 ``[B, T]``, the true codes.
            labels: int64 ``[B]`` or None.
            step: of the training, which this loss does not depend on.

        Returns:
            the loss in nats, a mean over all codes, masked or not; the accuracy at the masked ones.
        """
        config = self.prior.config
        labels = drop_labels(labels, self.label_dropout, config.labels)
        time = torch.randint(1, self.time_steps + 1, (codes.shape[0], 1), device=codes.device)
        masked = torch.rand(codes.shape, device=codes.device) < time / self.time_steps
        logits = self.prior(torch.where(masked, config.mask_code, codes), labels)
        errors = functional.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")
        weights = (self.time_steps - time + 1) / self.time_steps
        right = (logits.detach().argmax(-1) == codes) & masked
        return DenoisingLoss((weights * masked * errors).mean(), right.sum() / masked.sum().clamp(min=1))


@torch.no_grad()
def sample(
    prior: AbsorbingPrior, labels: Tensor | None, count: int, steps: int, temperature: tuple[float, float]
) -> Tensor:
    """Draws code grids from masks alone, with torch's own random numbers: step k of N reveals each with 1 / (N - k).

    ``temperature`` runs linearly from the first to the last step. Returns int64 ``[count, h, w]``.
    """
    height, width = prior.config.latent_grid
    mask_code, device = prior.config.mask_code, prior.to_logits.weight.device
    codes = torch.full((count, height * width), mask_code, device=device)
    schedule = Schedule(steps, temperature, min_steps=1)
    for step in range(steps):
        proposal = propose(prior(codes, labels), schedule.temperature_at(step))
        revealed = (codes == mask_code) & (torch.rand(codes.shape, device=device) < 1 / (steps - step))
        codes = torch.where(revealed, proposal, codes)
    return codes.view(count, height, width)
