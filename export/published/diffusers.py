"""VQ-GANs as Hugging Face's ``diffusers`` keeps them: a folder with ``config.json`` and safetensors (``VQModel``).

The networks are those of *Taming Transformers* under other names. Which levels attend is said by the types of blocks,
level by level, and the encoder's first convolution is as wide as its first level. ``scaling_factor`` and
``lookup_from_codebook`` play no part here, and ``sample_size`` computes nothing: many published folders have its
default of 32, or none.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from sundae_rt.errors import InputError, shown
from sundae_rt.export.halves import VQGANHalf
from sundae_rt.export.published import tensors
from sundae_rt.export.published.documents import read_json
from sundae_rt.export.published.values import Values
from sundae_rt.training import checkpoint
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig

CONFIG = "config.json"
_WEIGHTS = "diffusion_pytorch_model"
_USUAL, _FEW = 16, 8  # codes a side: where nothing is said, and fewer than a published model is used with
_PARTS = r"encoder\.(?:down_blocks|mid_block)|decoder\.(?:up_blocks|mid_block)"

# Types of blocks, and whether they attend.
_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}

# From our names to the published ones, in this order.
_NAMES = (
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.", "mid_block.attentions.0."),
    (r"\bdown\.(\d+)\.", r"down_blocks.\1."),
    (r"\bblock\.", "resnets."),
    (r"\battn\.", "attentions."),
    (r"\bdownsample\.", "downsamplers.0."),
    (r"\bupsample\.", "upsamplers.0."),
    (r"\bnin_shortcut\.", "conv_shortcut."),
    (r"\bnorm_out\.", "conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)
# Attention in files of diffusers before 0.12.
_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_diffusers(folder: Path) -> VQGANHalf:
    """Builds the VQ-GAN of a folder.

    Raises:
        InputError: an unreadable config, one that contradicts the weights (both sides are named), or missing,
            unexpected, wrongly shaped or not finite weights, by name.
    """
    config = folder / CONFIG
    sizes, notes = _sizes(Values(read_json(config), str(config)))
    path = _weights_file(folder)
    weights = tensors.read(path)
    own = {}
    for name, tensor in tensors.of_model(weights, _PARTS, path).items():
        name = re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.)", lambda match: _OLDER[match[1]], name)
        # Attention's linear layers are our 1 x 1 convolutions.
        linear = tensor.ndim == 2 and ".attentions." in name
        own[name] = tensor[:, :, None, None] if linear else tensor
    coarsest = len(sizes.multipliers) - 1

    def published(name: str) -> str:
        # Their up_blocks.0 is the coarsest level; ours is the finest.
        name = re.sub(r"\bup\.(\d+)\.", lambda match: f"up_blocks.{coarsest - int(match[1])}.", name)
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        return name

    model = tensors.filled(lambda: VQGAN(sizes), own, published, path, config)
    provenance = {"format": "diffusers VQModel", "checkpoint": path.name, "config": config.name}
    return VQGANHalf(model, provenance, notes + tensors.notes(weights, _PARTS, path))


def _weights_file(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if file.name.startswith(_WEIGHTS))
    preferred = [file for file in found if file.suffix == ".safetensors"] or [
        file for file in found if file.suffix == ".bin"
    ]
    whole = [file for file in preferred if file.stem == _WEIGHTS] or preferred  # not a variant such as .fp16
    if len(whole) != 1:
        remedy = ": save_pretrained with a larger max_shard_size writes one" if found else ""
        held = checkpoint.listed(file.name for file in found)
        raise InputError(f"{folder} must hold one {_WEIGHTS}.safetensors, and holds {held}{remedy}")
    return whole[0]


def _sizes(said: Values) -> tuple[VQGANConfig, tuple[str, ...]]:
    """The sizes that a config gives, and notes on what it does not."""
    said.one_of("_class_name", ("VQModel",))
    for key in ("in_channels", "out_channels"):
        said.one_of(key, (3,), 3)
    said.one_of("act_fn", ("silu", "swish"), "silu")
    said.one_of("norm_type", ("group",), "group")
    widths = said.wholes("block_out_channels", (64,))
    side, notes = _nominal_side(said, 2 ** (len(widths) - 1))
    latent_channels = said.whole("latent_channels", 3)
    code_dim = latent_channels if said.get("vq_embed_dim", None) is None else said.whole("vq_embed_dim")
    unit = math.gcd(*widths)
    with said.named():
        sizes = VQGANConfig(
            image_size=side,
            channels=unit,
            multipliers=tuple(width // unit for width in widths),
            residual_blocks=said.whole("layers_per_block", 1),
            attention_resolutions=_attended(said, "down_block_types", _DOWN, side, len(widths)),
            latent_channels=latent_channels,
            code_dim=code_dim,
            codebook_size=said.whole("num_vq_embeddings", 256),
            unit_norm=False,
            norm_groups=said.whole("norm_num_groups", 32),
            decoder_attention_resolutions=_attended(said, "up_block_types", _UP, side, len(widths)),
            stem_multiplier=widths[0] // unit,
            middle_attention=said.one_of("mid_block_add_attention", (True, False), True),
        )
    return sizes, notes


def _nominal_side(said: Values, factor: int) -> tuple[int, tuple[str, ...]]:
    """The nominal side of images in pixels, and a note where ``sample_size`` does not plainly say it.

    It is ``sample_size``, the longer one of two, or the next that f divides; without any it is ``_USUAL`` codes.
    """
    value = said.get("sample_size", 32)
    sides: tuple[int, ...] = ()
    if value not in (None, []):
        sides = said.wholes("sample_size") if isinstance(value, list) else (said.whole("sample_size", 32),)
    codes = math.ceil(max(sides) / factor) if sides else _USUAL
    side = codes * factor
    if set(sides) == {side} and codes >= _FEW:
        return side, ()
    told = f"images have {side}x{side} pixels, {codes}x{codes} codes, unless --image-size or a prior says otherwise"
    return side, (f"{said.where}: sample_size = {shown(value)} is taken as nominal: {told}",)


def _attended(said: Values, key: str, kinds: dict[str, bool], side: int, levels: int) -> tuple[int, ...]:
    """The nominal sides at which blocks attend; the decoder's blocks are listed from the coarsest up."""
    types = said.texts(key, (next(iter(kinds)),) * levels if levels == 1 else ())
    for kind in types:
        if kind not in kinds:
            raise said.bad(key, f"a list of {' or '.join(kinds)}", kind)
    if len(types) != levels:
        raise said.bad(key, f"{levels} types, as many as block_out_channels has numbers", list(types))
    from_the_finest = types if kinds is _DOWN else types[::-1]
    return tuple(side // 2**level for level, kind in enumerate(from_the_finest) if kinds[kind])
