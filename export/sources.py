"""Where the halves of a bundle come from: checkpoints, or a preset with random weights; and whether they match."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sundae_rt.errors import InputError
from sundae_rt.export.halves import Pairing, PriorHalf, VQGANHalf
from sundae_rt.export.published import tensors
from sundae_rt.export.published.labels import LabelOrder
from sundae_rt.export.published.priors import read_prior
from sundae_rt.export.published.vqgans import read_vqgan
from sundae_rt.schedule import Schedule
from sundae_rt.training import checkpoint
from sundae_rt.training.config import build, load_preset, named
from sundae_rt.training.data import check_labels
from sundae_rt.training.encoding import vqgan_of
from sundae_rt.training.pixels import CODES as PIXEL_CODES
from sundae_rt.training.pixels import GreyPixels, GreyPixelsConfig
from sundae_rt.training.pixels import read_config as read_pixels
from sundae_rt.training.prior.families import FAMILIES, build_prior, family_name
from sundae_rt.training.prior.preset import read_config as read_prior_preset
from sundae_rt.training.vqgan.model import VQGAN
from sundae_rt.training.vqgan.preset import read_config as read_vqgan_preset

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sources:
    """The halves to export, either of which may be missing.

    ``wanted_size``: (H, W) of images in pixels, where it is not to follow from the halves.

    Two halves that record no pairing may differ in two ways. A grid other than the VQ-GAN's nominal one is decoded as
    it is, for a VQ-GAN is convolutional (unless it has texture): images are as large as the prior's grid makes them.
    And a prior may use fewer codes than the codebook has. :attr:`notes` says so. Where a pairing is recorded, both are
    refused.

    Raises:
        InputError: halves that do not match, or a size that they cannot have; both sides are named.
    """

    prior: PriorHalf | None
    vqgan: VQGANHalf | None
    wanted_size: Size | None = None

    def __post_init__(self) -> None:
        if self.wanted_size is not None:
            self._check_wanted_size(self.wanted_size)
        if self.vqgan is not None and isinstance(self.vqgan.model, VQGAN) and self.vqgan.model.config.texture:
            self._check_nominal()
        if self.prior is None or self.vqgan is None:
            return
        sizes, vqgan = self.prior.model.config, self.vqgan.model.config
        paired = self.prior.pairing is not None
        if sizes.vocabulary > vqgan.codebook_size or (paired and sizes.vocabulary != vqgan.codebook_size):
            raise InputError(
                f"the prior has {sizes.vocabulary} codes, the VQ-GAN's codebook has {vqgan.codebook_size}: "
                "they were not trained together"
            )
        if paired and sizes.latent_grid != self._nominal_grid:
            raise InputError(
                f"the prior's latent grid is {_by(sizes.latent_grid)}, the VQ-GAN makes {_by(self._nominal_grid)}: "
                "they were not trained together"
            )

    def _check_nominal(self) -> None:
        """A decoder with texture holds noise of its nominal sizes, and decodes no other."""
        if self.latent_grid != self._nominal_grid:
            raise InputError(
                f"the latent grid is {_by(self.latent_grid)}, but the VQ-GAN's decoder has texture of its own size and "
                f"decodes {_by(self._nominal_grid)} alone"
            )

    def _check_wanted_size(self, size: Size) -> None:
        if self.vqgan is None:
            raise InputError(f"an image size of {_by(size)} needs a VQ-GAN: name one with --vqgan")
        if min(size) < 1 or size[0] % self._factor or size[1] % self._factor:
            raise InputError(
                f"the image size must be a multiple of the VQ-GAN's f = {self._factor} both ways, not {_by(size)}"
            )
        if self.prior is not None and self.image_size != size:
            raise InputError(
                f"the image size is {_by(size)}, but the prior's grid of {_by(self.latent_grid)} makes images of "
                f"{_by(self.image_size or (0, 0))}"
            )

    @property
    def latent_grid(self) -> Size:
        """(h, w) of an image's codes."""
        if self.prior is not None:
            return tuple(self.prior.model.config.latent_grid)
        if self.wanted_size is not None:
            return self.wanted_size[0] // self._factor, self.wanted_size[1] // self._factor
        return self._nominal_grid

    @property
    def image_size(self) -> Size | None:
        """(H, W) of an image in pixels; None without a VQ-GAN."""
        if self.vqgan is None:
            return None
        return self.latent_grid[0] * self._factor, self.latent_grid[1] * self._factor

    @property
    def vocabulary(self) -> int:
        """Codes that the prior knows; without a prior, that the codebook has."""
        half = self.prior or self.vqgan
        assert half is not None
        return half.model.config.vocabulary if half is self.prior else half.model.config.codebook_size

    @property
    def codebook_size(self) -> int:
        """Codes that encoder and decoder know; without a VQ-GAN, that the prior does."""
        return self.vocabulary if self.vqgan is None else self.vqgan.model.config.codebook_size

    @property
    def provenance(self) -> dict[str, Any]:
        """Where each half comes from."""
        halves = {"prior": self.prior, "vqgan": self.vqgan}
        return {name: half.provenance for name, half in halves.items() if half is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever exports may not expect: of each half, and of the two together, one line each."""
        notes = [note for half in (self.prior, self.vqgan) if half is not None for note in half.notes]
        if self.prior is None or self.vqgan is None:
            if self.prior is not None and self.prior.pairing is not None:
                named = self.prior.pairing
                notes.append(
                    f"the prior names {named.file} (codes {named.codes_sha256[:12]}), which is not beside it: "
                    "exporting the prior alone; --vqgan adds it from elsewhere"
                )
            return tuple(notes)
        if self.vocabulary < self.codebook_size:
            notes.append(f"the prior knows {self.vocabulary} of the VQ-GAN's {self.codebook_size} codes")
        if self.latent_grid != self._nominal_grid:
            notes.append(
                f"the prior's latent grid is {_by(self.latent_grid)} and not the VQ-GAN's nominal "
                f"{_by(self._nominal_grid)}: images have {_by(self.image_size or (0, 0))} pixels"
            )
        return tuple(notes)

    @property
    def _factor(self) -> int:
        """f: pixels of image along one side of a latent cell."""
        assert self.vqgan is not None
        return self.vqgan.model.config.image_size // self.vqgan.model.config.latent_side

    @property
    def _nominal_grid(self) -> Size:
        assert self.vqgan is not None
        side = self.vqgan.model.config.latent_side
        return side, side


def from_checkpoints(
    prior_path: Path | None,
    vqgan_path: Path | None,
    *,
    config: Path | None = None,
    vqgan_config: Path | None = None,
    label_order: LabelOrder = "index",
    label_names: Path | None = None,
    image_size: Size | None = None,
) -> Sources:
    """Reads a prior and a VQ-GAN, or either; each is this project's own or a published one.

    The VQ-GAN of an own prior is found beside it unless it is named.

    Raises:
        InputError: unreadable, mismatched, or neither given.
    """
    if prior_path is None and vqgan_path is None:
        raise InputError("nothing to export: name a prior with --checkpoint, a VQ-GAN with --vqgan, or a --preset")
    if config is not None and prior_path is None:
        raise InputError(f"the config {config} belongs to a published prior: name its --checkpoint")
    prior = None
    if vqgan_config is not None and vqgan_path is None:
        raise InputError(f"the config {vqgan_config} belongs to a published VQ-GAN: name it with --vqgan")
    if prior_path is not None:
        prior = _read_prior(prior_path, config, label_order, label_names)
        if vqgan_path is None and prior.pairing is not None and prior.pairing.file is not None:
            beside = prior_path.parent / Path(prior.pairing.file).name
            vqgan_path = beside if beside.exists() else None
    if vqgan_path is not None:
        vqgan = _read_vqgan(vqgan_path, vqgan_config)
    elif prior is not None and prior.pairing is not None and prior.pairing.codes_sha256 == PIXEL_CODES:
        vqgan = _grey_pixels(GreyPixelsConfig(prior.model.config.latent_grid[0]))
    else:
        vqgan = None
    if prior is not None and vqgan is not None and prior.pairing is not None:
        found, named = vqgan.provenance["codes_sha256"], prior.pairing.codes_sha256
        if found != named:
            raise InputError(
                f"{vqgan_path} (codes {found[:12]}) is not the VQ-GAN whose codes {prior_path} learned "
                f"(codes {named[:12]})"
            )
    return Sources(prior, vqgan, image_size)


def _read_prior(path: Path, settings: Path | None, label_order: LabelOrder, label_names: Path | None) -> PriorHalf:
    """This project's own checkpoint, or else a published one with its config."""
    values = tensors.contents(path)
    if not checkpoint.is_own(values):
        if settings is None:
            raise InputError(f"{path} is no checkpoint of this project; for a published prior give its --config too")
        weights = tensors.flat(values)
        return read_prior(path, settings, label_order=label_order, label_names=label_names, weights=weights)
    if settings is not None:
        raise InputError(f"{path} holds its own config: leave out --config {settings}")
    if label_order != "index" or label_names is not None:
        raise InputError(f"{path} holds its own labels: leave out --label-order and --label-names")
    values = checkpoint.checked(values, path, "prior")
    with named(str(path)):
        prior = build_prior(values, str(path))
        family = family_name(values, str(path))
        build(FAMILIES[family].schedule, values["schedule"], f"{path}: schedule")  # names unknown settings
        schedule = Schedule.from_settings(values["schedule"])
    checkpoint.load_weights(prior, values["weights"], str(path))
    labels = values["labels"] or []
    check_labels(labels, str(path))
    if len(labels) != prior.config.labels:
        raise InputError(f"{path} names {len(labels)} labels, its config has {prior.config.labels}")
    return PriorHalf(
        prior.eval(),
        tuple(labels) or None,
        tuple(values["label_weights"]) if values["label_weights"] else None,
        schedule,
        values["provenance"],
        family,
        Pairing(values["vqgan"]["file"], values["vqgan"]["codes_sha256"]),
    )


def _read_vqgan(path: Path, settings: Path | None) -> VQGANHalf:
    """This project's own checkpoint, or else a published file or folder."""
    values = {} if path.is_dir() else tensors.contents(path)
    if checkpoint.is_own(values):
        if settings is not None:
            raise InputError(f"{path} holds its own config: leave out --vqgan-config {settings}")
        values = checkpoint.checked(values, path, "vqgan")
        half = VQGANHalf(vqgan_of(values, path), values["provenance"])
    else:
        half = read_vqgan(path, settings, tensors.flat(values))
    codes = {"codes_sha256": checkpoint.tensor_hash(half.model.codes_parameters())}
    return dataclasses.replace(half, provenance=half.provenance | codes)


def _grey_pixels(sizes: GreyPixelsConfig) -> VQGANHalf:
    return VQGANHalf(GreyPixels(sizes).eval(), {"codes": "grey levels of pixels", "codes_sha256": PIXEL_CODES})


def from_preset(preset: str, seed: int = 0) -> Sources:
    """The models of a preset, a name or a toml file, at real size with random weights, for benchmarks and trials.

    Raises:
        InputError: a preset that is none, or whose pictures of pixels have not the size of the prior's grid.
    """
    torch.manual_seed(seed)
    chosen = load_preset(preset)
    about = {"preset": chosen.name, "weights": "random: for benchmarks and trials, not for pictures"}
    wanted = read_prior_preset(chosen)
    labels = tuple(f"label-{index}" for index in range(wanted.sizes.labels)) or None
    schedule = Schedule.from_settings(dataclasses.asdict(wanted.schedule))
    model = FAMILIES[wanted.family].model(wanted.sizes).eval()
    prior = PriorHalf(model, labels, None, schedule, about, wanted.family)
    if "pixels" in chosen.sections:
        pixels = read_pixels(chosen)
        if wanted.sizes.latent_grid != (pixels.image_size, pixels.image_size):
            raise InputError(
                f"preset {chosen.name!r}: [pixels] image_size is {pixels.image_size} and the prior's latent grid "
                f"{_by(wanted.sizes.latent_grid)}: where codes are pixels, both are one"
            )
        return Sources(prior, _grey_pixels(pixels))
    vqgan = VQGAN(read_vqgan_preset(chosen)[0]).eval()
    # A codebook at its initial size of nearly nothing would decode to one flat grey.
    torch.nn.init.normal_(vqgan.quantize.embedding.weight)
    return Sources(prior, VQGANHalf(vqgan, about))


def _by(size: Size) -> str:
    """A size as messages write it; both ways are in the order of arrays, rows first."""
    return f"{size[0]}x{size[1]}"
