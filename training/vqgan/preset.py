"""The ``[vqgan]`` section of a preset: the sizes of a VQ-GAN, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from sundae_rt.errors import InputError
from sundae_rt.training import config
from sundae_rt.training.vqgan.model import VQGANConfig


@dataclass(frozen=True, slots=True)
class VQGANTraining:
    """How a VQ-GAN is trained. What is null here is ``false`` in a preset.

    Until ``quantiser_start`` the decoder sees unquantised latents while the codebook already follows them: a codebook
    that must catch an untrained encoder collapses to a few codes. ``discriminator_start`` is the step at which the
    adversary joins; null trains a plain VQ-VAE. With ``freeze_codes`` encoder and codebook stay as they are from that
    step on, so that a prior can be trained on their codes while the decoder learns texture. Over the first
    ``adversarial_warmup`` of those steps the adversary's weight rises from nothing: the adaptive weight would blow a
    discriminator that knows nothing yet up to full strength. From there on the model learns at the peak rate
    ``texture_learning_rate`` and the discriminator at ``adversarial_learning_rate``. ``codebook_decay`` null trains the
    codebook by gradient instead of as a moving average. ``perceptual`` names the feature network, or the file of one's
    own, and ``perceptual_linear`` what weighs its features (see
    :class:`~sundae_rt.training.features.PerceptualLoss`); null compares pixels alone. ``discriminator_features``: width
    of the heads by which the discriminator judges that network's features too; 0 judges patches of pixels alone.
    ``colour_weight``: while the adversary is on, how much the mean colour of each code's cell counts: what codes do not
    say of a hue the adversary would choose.
    """

    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup: int = 100
    anneal: bool = True
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    augment: bool = True
    pixel_weight: float = 1.0
    perceptual: str | None = "efficientnet-lite0"
    perceptual_linear: str | None = None
    perceptual_weight: float = 1.0
    quantiser_start: int = 0
    codebook_decay: float | None = 0.99
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    discriminator_start: int | None = None
    freeze_codes: bool = False
    adversarial_weight: float = 0.8
    colour_weight: float = 0.0
    adversarial_warmup: int = 0
    adversarial_learning_rate: float = 4e-4
    texture_learning_rate: float = 2e-4
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    discriminator_high_pass: bool = False
    discriminator_features: int = 0
    save_every: int = 500
    workers: int = 0

    def __post_init__(self) -> None:
        config.at_least(1, self, "steps", "batch_size", "save_every", "discriminator_channels", "discriminator_layers")
        config.at_least(0, self, "workers", "discriminator_features", "learning_rate", "warmup")
        config.above_zero(self, "gradient_clip")  # at 0 every gradient would be cut to nothing
        config.at_least(0, self, "adversarial_learning_rate", "texture_learning_rate", "adversarial_warmup")
        config.at_least(0, self, "pixel_weight", "perceptual_weight", "codebook_weight", "commitment_weight")
        config.at_least(0, self, "adversarial_weight", "colour_weight", "quantiser_start")
        config.shares(self, "ema_decay", *(() if self.codebook_decay is None else ("codebook_decay",)))
        if self.discriminator_features and self.perceptual is None:
            raise InputError("discriminator_features must be 0 without a perceptual network")


def read_config(preset: config.Preset) -> tuple[VQGANConfig, VQGANTraining]:
    """Sizes and training of a preset's VQ-GAN.

    Raises:
        InputError: the preset has none, or a key or value is wrong; it is named.
    """
    values = preset.section("vqgan")
    training = values.pop("training", {})
    where = f"preset {preset.name!r} [vqgan"
    return config.build(VQGANConfig, values, f"{where}]"), config.build(VQGANTraining, training, f"{where}.training]")
