"""Small VQ-GANs with random weights, for tests of the readers of published ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig


def random_vqgan(**sizes: Any) -> VQGAN:
    """A VQ-GAN whose norms, too, have random weights and biases: two channels a group unless `sizes` say otherwise."""
    torch.manual_seed(0)
    values = {"image_size": 16, "channels": 64, "multipliers": (1, 2), "latent_channels": 6, "code_dim": 5}
    model = VQGAN(VQGANConfig(**(values | {"codebook_size": 19, "unit_norm": False} | sizes)))
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.Embedding):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model.eval()


@torch.no_grad()
def behaviour(model: VQGAN, side: int = 16) -> tuple[Tensor, Tensor]:
    """The codes that a model finds in noise, and what it makes of them."""
    codes = model.encode(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)))
    return codes, model.decode(codes)


def assert_same(found: VQGAN, wanted: VQGAN) -> None:
    """The two do the same."""
    for ours, theirs in zip(behaviour(found), behaviour(wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
