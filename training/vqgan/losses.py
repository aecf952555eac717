"""What the VQ-GAN is trained on besides pixels: the patch discriminator, its hinge loss and the adaptive weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches (Isola et al. 2017): float ``[B, 3, H, W]`` to one logit a patch, ``[B, 1, h, w]``.

    Its layers are spectrally normalised (Miyato et al. 2018) and not normalised by group: a texture is judged by how
    strong it is, too. With ``high_pass`` it also sees the picture less its local mean, amplified: a low-contrast
    texture, such as a forest from orbit, otherwise hides from it.
    """

    def __init__(self, channels: int, layers: int, high_pass: bool) -> None:
        super().__init__()
        self.high_pass = high_pass
        widths = [6 if high_pass else 3] + [channels * min(2**layer, 8) for layer in range(layers + 1)]
        modules: list[nn.Module] = []
        for layer in range(layers + 1):
            stride = 2 if layer < layers else 1
            modules += [spectral_norm(nn.Conv2d(widths[layer], widths[layer + 1], 4, stride, 1)), nn.LeakyReLU(0.2)]
        modules.append(spectral_norm(nn.Conv2d(widths[-1], 1, 4, 1, 1)))
        self.patches = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[B, 3, H, W]`` in -1..1 to logits; larger means more real."""
        if self.high_pass:
            local_mean = functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
            images = torch.cat((images, 4 * (images - local_mean)), 1)
        return self.patches(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: real patches above 1, made ones below -1."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """How much the adversary counts: the ratio of both losses' gradient norms at the decoder's last layer."""
    pull = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    push = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (pull / (push + 1e-4)).clamp(0, 1e4).detach()
