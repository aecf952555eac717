"""Priors of the paper's own code: ``{"net": state_dict, ...}`` of ``HourglassTransformerLM``, with a toml config.

That code differs from the paper's text; :attr:`HourglassConfig.PUBLISHED` holds the differences, so that its weights
load into the one :class:`HourglassPrior`. Every size is read from the weights and compared with the config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sundae_rt.errors import InputError
from sundae_rt.export.halves import PriorHalf
from sundae_rt.export.published import tensors
from sundae_rt.export.published.labels import LabelOrder, label_names, reorder
from sundae_rt.export.published.settings import Settings
from sundae_rt.schedule import Schedule
from sundae_rt.training import checkpoint
from sundae_rt.training.prior.hourglass import Depth, HourglassConfig, HourglassPrior, Transformer
from sundae_rt.training.prior.layers import Layer
from sundae_rt.training.prior.rotary import HEAD_WIDTH, pixel_frequencies

# From our names to the published ones, in this order.
_NAMES = (
    (r"^code_embedding\.", "token_emb."),
    (r"^label_embedding\.", "class_emb."),
    (r"^position_embedding\.", "pos_emb."),
    (r"^norm\.", "transformer.norm_out."),
    (r"^hourglass\b", "transformer"),
    (r"\bvalley\b", "valley_transformer"),
    (r"\bbefore\b", "pre_transformer"),
    (r"\bafter\b", "post_transformer"),
    (r"\bdown\.", "downsample.proj."),
    (r"\bup\.", "upsample.proj."),
    (r"\bgather\b", "attn_resampling_pre_valley.layers.0"),
    (r"\bspread\b", "attn_resampling_post_valley.layers.0"),
    (r"\battention_norm\.", "0.norm."),
    (r"\battention\.to_query\.", "0.fn.to_q."),
    (r"\battention\.to_key_value\.", "0.fn.to_kv."),
    (r"\battention\.to_out\.", "0.fn.to_out."),
    (r"\bfeed_forward_norm\.", "1.norm."),
    (r"\bfeed_forward\.0\.", "1.fn.0."),
    (r"\bfeed_forward\.2\.", "1.fn.3."),
)
_PARTS = "token_emb"
_ANCHOR = "token_emb.weight"
_FREQUENCIES = ".rotary_pos_emb.freqs"


def holds_hourglass(weights: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a file, as :func:`tensors.read` gives them, are of this kind."""
    return tensors.has(dict(weights), _PARTS)


def read_hourglass(
    path: Path, weights: Mapping[str, Tensor], config: Path, order: LabelOrder = "index", names: Path | None = None
) -> PriorHalf:
    """Builds the prior of a checkpoint.

    Args:
        path: the checkpoint, for messages.
        weights: its tensors, as :func:`tensors.read` gives them; what is not of the model (``opt``, ...) is ignored.
        config: its ``config.toml``.
        order: how the run numbered its classes; see :mod:`sundae_rt.export.published.labels`.
        names: a file with a name for each true class, one a line.

    Raises:
        InputError: a config that contradicts the weights (both sides are named), or missing, unexpected, wrongly
            shaped or not finite weights, by their names in the file.
    """
    own = tensors.of_model(dict(weights), _PARTS, path)
    said = Settings(config, path)
    sizes = _sizes(own, said)
    prior = HourglassPrior(sizes)
    _load(prior, own, path, config)
    if prior.label_embedding is not None:
        reorder(prior.label_embedding, order)
    provenance = {
        "format": "HourglassTransformerLM",
        "checkpoint": path.name,
        "config": config.name,
        **({"label_order": order} if sizes.labels else {}),
    }
    return PriorHalf(
        prior.eval(),
        label_names(sizes.labels, names),
        schedule=_schedule(said),
        provenance=provenance,
        notes=tensors.notes(dict(weights), _PARTS, path),
    )


def _sizes(weights: dict[str, Tensor], said: Settings) -> HourglassConfig:
    """The sizes that weights and config agree on."""
    if (kind := said.get("net", "type", str, "hourglass")) != "hourglass":
        raise InputError(f"{said.config}: [net] type = {kind!r} is not read: only 'hourglass' is")
    vocabulary, dim = tensors.shape_of(weights, _ANCHOR, 2, said.path)
    said.compare("data", "vocab_size", said.get("data", "vocab_size", int), vocabulary, f"rows of {_ANCHOR}")
    said.compare("net", "dim", said.get("net", "dim", int), dim, f"columns of {_ANCHOR}")

    levels = _levels(weights)
    depth = _depth(weights, levels)
    said.compare("net", "depth", said.get("net", "depth", tuple | int), depth, "layers in the weights")
    shorten = _shortening(weights, levels, dim, said)

    query = next((name for name in weights if name.endswith(".to_q.weight")), f"{levels[0]}...to_q.weight")
    rows = tensors.shape_of(weights, query, 2, said.path)[0]
    if rows % HEAD_WIDTH:
        raise InputError(f"{said.path}: {query} has {rows} rows, which do not divide into heads of {HEAD_WIDTH}")
    heads = rows // HEAD_WIDTH
    said.compare("net", "nb_heads", said.get("net", "nb_heads", int), heads, f"{rows} rows of {query} by {HEAD_WIDTH}")

    labels = weights["class_emb.weight"].shape[0] if "class_emb.weight" in weights else 0
    said.compare("net", "conditional", said.get("net", "conditional", bool, False), labels > 0, "class_emb.weight")
    if labels:
        classes = said.get("net", "num_classes", int)
        said.compare("net", "num_classes", classes, labels, "rows of class_emb.weight")

    learned = "pos_emb.weight" in weights
    said.compare("net", "use_rotary", said.get("net", "use_rotary", bool), not learned, "pos_emb.weight")
    options = HourglassConfig.PUBLISHED | ({"positions": "learned"} if learned else {})
    try:
        return HourglassConfig(vocabulary, _grid(said), depth, (dim,), (heads,), shorten, labels=labels, **options)
    except InputError as error:
        raise InputError(f"{said.config}: {error}") from error


def _shortening(weights: dict[str, Tensor], levels: list[str], dim: int, said: Settings) -> tuple[int, ...]:
    """How many tokens become one at each level; the config gives one number for all, or a list."""
    found = []
    for level in levels:
        name = f"{level}downsample.proj.weight"
        factor, rest = divmod(tensors.shape_of(weights, name, 2, said.path)[1], dim)
        if rest:
            raise InputError(f"{said.path}: {name} has {factor * dim + rest} columns, which do not divide by dim {dim}")
        found.append(factor)
    factors = said.get("net", "shorten_factor", int | tuple)
    for_all = (factors,) * len(levels) if isinstance(factors, int) else factors
    said.compare("net", "shorten_factor", for_all, tuple(found), "columns of downsample.proj.weight by dim")
    return tuple(found)


def _grid(said: Settings) -> tuple[int, int]:
    """The latent grid: the published code cuts a sequence into a square, whatever it is told."""
    length = said.get("data", "sequence_length", int)
    side = math.isqrt(max(length, 0))
    if side**2 != length or not side:
        raise InputError(
            f"{said.config}: [data] sequence_length = {length} is no square grid, which the published code needs"
        )
    shape = said.get("vqgan", "latent_shape", tuple, (side, side))
    if shape != (side, side):
        raise InputError(
            f"{said.config} says sequence_length = {length}, a grid of {side}x{side}, but "
            f"[vqgan] latent_shape = {list(shape)}"
        )
    return side, side


def _levels(weights: dict[str, Tensor]) -> list[str]:
    """The name of each hourglass, from the outside in."""
    levels = ["transformer."]
    while f"{levels[-1]}valley_transformer.downsample.proj.weight" in weights:
        levels.append(f"{levels[-1]}valley_transformer.")
    return levels


def _depth(weights: dict[str, Tensor], levels: list[str]) -> Depth:
    def layers(transformer: str) -> int:
        found = re.compile(re.escape(transformer) + r"\.layers\.(\d+)\.")
        return len({match[1] for name in weights if (match := found.match(name))})

    depth: Any = layers(f"{levels[-1]}valley_transformer")
    for level in reversed(levels):
        depth = (layers(f"{level}pre_transformer"), depth, layers(f"{level}post_transformer"))
    return depth


def _load(prior: HourglassPrior, weights: dict[str, Tensor], path: Path, config: Path) -> None:
    """Fills the prior, and compares the frequencies that the checkpoint carries with those of the sizes."""
    frequencies = _frequencies(prior)
    names = tensors.fitting(prior, weights, _published, path, config, unused=frequencies)
    if missing := frequencies.keys() - weights.keys():
        raise InputError(f"{path}: missing weights {checkpoint.listed(missing)}")
    for name, wanted in frequencies.items():
        found = weights[name].detach().float()
        if wanted is not None and (found.shape != wanted.shape or not torch.allclose(found, wanted, 1e-2)):
            raise InputError(
                f"{path}: {name} runs to {_highest(found)}, but {config}'s sequence_length and shorten_factor "
                f"make a grid whose frequencies run to {_highest(wanted)}"
            )
    # Not by tensors.filled: the tables of rotary embeddings are in no state dict.
    prior.load_state_dict({own: weights[name] for own, (name,) in names.items()})


def _highest(frequencies: Tensor) -> str:
    return f"{float(frequencies.flatten()[-1]) / math.pi:.3g} pi"


def _frequencies(prior: HourglassPrior) -> dict[str, Tensor | None]:
    """The rotary frequencies that the published code saves, by name; None for those that it never uses."""
    if prior.config.positions == "learned":
        return {}
    found: dict[str, Tensor | None] = {}
    for name, module in prior.named_modules():
        if isinstance(module, Transformer) and module.rotary is not None:
            found[_published(name) + _FREQUENCIES] = pixel_frequencies(module.rotary.highest)
        elif isinstance(module, Layer) and name.endswith(("gather", "spread")):
            found[_published(name).removesuffix(".layers.0") + _FREQUENCIES] = None
    return found


def _published(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _schedule(said: Settings) -> Schedule:
    """The default schedule: the config's own sampling settings, and the published code's default of ``min_steps``."""
    steps = said.get("sampling", "steps", int, 100)
    ranges = {}
    for name, key in (("temperature", "temperature"), ("proportion", "sample_proportion")):
        first = said.get("sampling", key, int | float, 1.0)
        ranges[name] = (first, said.get("sampling", f"end_{key}", int | float, first))
    try:
        return Schedule(steps=steps, min_steps=max(1, min(10, steps)), **ranges)
    except InputError as error:
        raise InputError(f"{said.config}: [sampling]: {error}") from error
