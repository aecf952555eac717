"""What the VQ-GAN is trained on besides pixels: the discriminator, its hinge loss and the adaptive weight."""

from __future__ import annotations

from collections.abc import Sequence

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


class FeatureDiscriminator(nn.Module):
    """Judges pictures by the features of a network trained on ImageNet, as Projected GAN does (Sauer et al. 2021).

    One head a depth. Each depth's channels are mixed at random, once and for all: a head cannot settle on the few
    channels that give a picture away first. ``widths``: the channels of each depth's map.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList()
        for depth, width in enumerate(widths):
            self.register_buffer(f"mixing{depth}", torch.randn(channels, width, 1, 1) / width**0.5)
            self.heads.append(
                nn.Sequential(
                    spectral_norm(nn.Conv2d(channels, channels, 3, 1, 1)),
                    nn.LeakyReLU(0.2),
                    spectral_norm(nn.Conv2d(channels, channels, 3, 2, 1)),
                    nn.LeakyReLU(0.2),
                    spectral_norm(nn.Conv2d(channels, 1, 1)),
                )
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps ``[B, C, h, w]`` of each depth to logits ``[B, 1, h / 2, w / 2]``."""
        return [
            head(functional.conv2d(found, self.get_buffer(f"mixing{depth}")))
            for depth, (head, found) in enumerate(zip(self.heads, maps, strict=True))
        ]


class Discriminator(nn.Module):
    """Judges pictures by their patches and, where ``features`` is given, by their features too."""

    def __init__(self, patches: PatchDiscriminator, features: FeatureDiscriminator | None = None) -> None:
        super().__init__()
        self.patches, self.features = patches, features

    def forward(self, images: Tensor, maps: Sequence[Tensor] = ()) -> list[Tensor]:
        """Float ``[B, 3, H, W]`` in -1..1, and feature maps of them, to logits ``[B, 1, h, w]`` of each judge."""
        logits = [self.patches(images)]
        return logits if self.features is None else logits + self.features(maps)


def hinge_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """The discriminator's loss, a mean over its judges: real logits above 1, made ones below -1."""
    return 0.5 * (
        mean_logit([functional.relu(1 - each) for each in real])
        + mean_logit([functional.relu(1 + each) for each in made])
    )


def mean_logit(logits: Sequence[Tensor]) -> Tensor:
    """The mean over judges, each of them a mean over pictures and places."""
    return torch.stack([each.float().mean() for each in logits]).mean()


def colour_loss(made: Tensor, real: Tensor, side: int) -> Tensor:
    """The mean absolute difference between the mean colours of cells of ``side`` x ``side`` pixels.

    What a code does not say of a hue an adversary chooses freely, and one far from the truth may please it best. This
    holds the hue and leaves the texture to the adversary. Both float ``[B, 3, H, W]``, sides that ``side`` divides.
    """
    return functional.l1_loss(functional.avg_pool2d(made, side), functional.avg_pool2d(real, side))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """How much the adversary counts: the ratio of both losses' gradient norms at the decoder's last layer."""
    pull = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    push = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (pull / (push + 1e-4)).clamp(0, 1e4).detach()
