"""The VQ-GAN of *Unleashing Transformers* (Bond-Taylor et al. 2021): a bare state dict, ``ae.*``, with a json of sizes.

It differs from *Taming Transformers* in named options: pixels in 0..1, as many blocks in each level of the decoder as
of the encoder, no ``quant_conv``, no activation before the last convolutions. Its networks are flat lists, so what
block n is follows from the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sundae_rt.export.published import tensors
from sundae_rt.export.published.documents import read_json
from sundae_rt.export.published.values import Values
from sundae_rt.training.vqgan.model import VQGAN, PixelRange, VQGANConfig

PARTS = r"(?:encoder|generator)\.blocks"
"""What the names of such a model's weights hold."""

_MIDDLE = ("mid.block_1", "mid.attn_1", "mid.block_2")
_END = ("norm_out", "conv_out")
_LIKELIHOOD = "generator.logsigma."  # fitted after the training, and no part of the pictures


def read_unleashing(path: Path, weights: tensors.Weights, config: Path) -> tuple[VQGAN, dict[str, Any]]:
    """Builds the VQ-GAN of a checkpoint; returns it and its provenance.

    Args:
        path: the checkpoint, for messages.
        weights: its tensors, as :func:`tensors.read` gives them.
        config: its json: ``nf``, ``ch_mult``, ``res_blocks``, ``img_size``, ``attn_resolutions``, ``emb_dim``,
            ``codebook_size``, and where they are not as usual ``quantizer`` and ``input_range``.

    Raises:
        InputError: an unreadable config, one that contradicts the weights (both sides are named), or missing,
            unexpected, wrongly shaped or not finite weights, by name.
    """
    sizes = _sizes(Values(read_json(config), str(config)))
    own = tensors.without(tensors.of_model(weights, PARTS, path), _LIKELIHOOD)
    blocks = {
        f"{ours}.{block}.": f"{theirs}.blocks.{index}."
        for ours, theirs, order in (("encoder", "encoder", _encoder(sizes)), ("decoder", "generator", _decoder(sizes)))
        for index, block in enumerate(order)
    }

    def published(name: str) -> str:
        block = next((block for block in blocks if name.startswith(block)), None)
        if block is not None:
            return blocks[block] + name.removeprefix(block).replace("nin_shortcut.", "conv_out.")
        return name.replace("quantize.embedding.", "quantize.embed.") if sizes.quantiser == "gumbel" else name

    # Every residual block owns a shortcut, and uses it only where the number of channels changes.
    shortcuts = {
        f"{theirs}conv_out.{part}" for ours, theirs in blocks.items() if ".block" in ours for part in ("weight", "bias")
    }
    model = tensors.filled(lambda: VQGAN(sizes), own, published, path, config, shortcuts)
    return model, {"format": "unleashing-transformers VQGAN", "checkpoint": path.name, "config": config.name}


def _sizes(said: Values) -> VQGANConfig:
    said.one_of("n_channels", (3,), 3)
    code_dim = said.whole("emb_dim")
    with said.named():
        sizes = VQGANConfig(
            image_size=said.whole("img_size"),
            channels=said.whole("nf"),
            multipliers=said.wholes("ch_mult"),
            residual_blocks=said.whole("res_blocks"),
            attention_resolutions=said.wholes("attn_resolutions"),
            latent_channels=code_dim,
            code_dim=code_dim,
            codebook_size=said.whole("codebook_size"),
            unit_norm=False,
            quantiser=said.one_of("quantizer", ("nearest", "gumbel"), "nearest"),
            decoder_blocks=said.whole("res_blocks"),
            final_activation=False,
            quant_conv=False,
            pixel_range=_pixel_range(said),
        )
    sides = said.wholes("latent_shape", (sizes.latent_side, sizes.latent_side))[-2:]
    if sides != (sizes.latent_side, sizes.latent_side):
        raise said.bad(
            "latent_shape", f"[1, {sizes.latent_side}, {sizes.latent_side}] by its img_size and ch_mult", sides
        )
    return sizes


def _pixel_range(said: Values) -> PixelRange:
    value = said.get("input_range", (0, 1))
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(end) in (int, float) for end in value):
        raise said.bad("input_range", "two numbers, what black and white are", value)
    return float(value[0]), float(value[1])


def _encoder(sizes: VQGANConfig) -> Iterator[str]:
    """Our names of the encoder's blocks, in the order in which they run."""
    yield "conv_in"
    for level in range(len(sizes.multipliers)):
        attends = sizes.image_size // 2**level in sizes.attention_resolutions
        yield from _level(f"down.{level}", sizes.residual_blocks, attends)
        if level < len(sizes.multipliers) - 1:
            yield f"down.{level}.downsample"
    yield from _MIDDLE
    yield from _END


def _decoder(sizes: VQGANConfig) -> Iterator[str]:
    """Our names of the decoder's blocks, in the order in which they run."""
    yield "conv_in"
    yield from _MIDDLE
    for level in reversed(range(len(sizes.multipliers))):
        attends = sizes.image_size // 2**level in sizes.attention_resolutions
        yield from _level(f"up.{level}", sizes.residual_blocks, attends)
        if level > 0:
            yield f"up.{level}.upsample"
    yield from _END


def _level(name: str, blocks: int, attends: bool) -> Iterator[str]:
    for block in range(blocks):
        yield f"{name}.block.{block}"
        if attends:
            yield f"{name}.attn.{block}"
