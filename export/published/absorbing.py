"""Samplers of *Unleashing Transformers* (Bond-Taylor et al. 2021): a bare state dict, with a json of sizes.

The weights are those of ``AbsorbingDiffusion`` around a transformer, ``_denoise_fn.*``. How a run was trained and
sampled (``loss_type``, ``mask_schedule``, ``sample_type``, ...) is in the json too, and changes nothing here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from sundae_rt.errors import InputError
from sundae_rt.export.halves import PriorHalf
from sundae_rt.export.published import tensors
from sundae_rt.export.published.documents import read_json
from sundae_rt.export.published.values import Values
from sundae_rt.schedule import Schedule
from sundae_rt.training import checkpoint
from sundae_rt.training.prior.absorbing import AbsorbingConfig, AbsorbingPrior

_PARTS = "tok_emb"
_CODES, _POSITIONS, _HEAD = "tok_emb.weight", "pos_emb", "head.weight"
_TRANSFORMER = "_denoise_fn."
_HISTORY = ("Lt_history", "Lt_count", "loss_history")  # of the training: one number for each time, from 0
_UNUSED = ("start_tok",)  # of the autoregressive sampler, which is the same class

# From our names to the published ones.
_NAMES = {
    r"^code_embedding\.": "tok_emb.",
    r"^position_embedding\.weight": "pos_emb",
    r"^layers\.": "blocks.",
    r"\.attention_norm\.": ".ln1.",
    r"\.feed_forward_norm\.": ".ln2.",
    r"\.attention\.to_query\.": ".attn.query.",
    r"\.attention\.to_out\.": ".attn.proj.",
    r"\.feed_forward\.": ".mlp.",
    r"^norm\.": "ln_f.",
    r"^to_logits\.": "head.",
}
_KEY_VALUE = ".attention.to_key_value."


def holds_absorbing(weights: tensors.Weights) -> bool:
    """Whether the tensors of a file, as :func:`tensors.read` gives them, are of this kind."""
    return tensors.has(weights, _PARTS)


def read_absorbing(path: Path, weights: tensors.Weights, config: Path) -> PriorHalf:
    """Builds the prior of a checkpoint.

    Args:
        path: the checkpoint, for messages.
        weights: its tensors, as :func:`tensors.read` gives them; beside the sampler's there may be others.
        config: its json: ``bert_n_head``, which the weights do not tell, and ``latent_shape``; what else it says of the
            sizes (``codebook_size``, ``mask_id``, ``bert_n_emb``, ``bert_n_layers``, ``block_size``, ``total_steps``)
            must be what the weights have. ``sample_steps`` (or else ``total_steps``) and ``temp`` make the default
            schedule.

    Raises:
        InputError: an unreadable config, one that contradicts the weights (both sides are named), or missing,
            unexpected, wrongly shaped or not finite weights, by their names in the file.
    """
    said = Values(read_json(config), str(config))
    said.one_of("sampler", ("absorbing",), "absorbing")
    own, history = _sampler(weights, path)
    sizes = _sizes(own, said, path)
    total_steps = _total_steps(history, sizes, said, path)
    places = math.prod(sizes.latent_grid)
    own |= {_POSITIONS: own[_POSITIONS][0, :places]}
    prior = tensors.filled(lambda: AbsorbingPrior(sizes), own, _published, path, config, _UNUSED)
    provenance = {
        "format": "unleashing-transformers AbsorbingDiffusion",
        "checkpoint": path.name,
        "config": config.name,
    }
    return PriorHalf(
        prior,
        schedule=_schedule(total_steps, said),
        provenance=provenance,
        family="absorbing",
        notes=tensors.notes(weights, _PARTS, path),
    )


def _sampler(weights: tensors.Weights, path: Path) -> tuple[tensors.Weights, tensors.Weights]:
    """The transformer's weights, and what the sampler around it has beside them."""
    own = tensors.of_model(weights, _PARTS, path)
    tensors.shape_of(own, _CODES, 2, path)
    prefix = tensors.prefix_of(weights, _PARTS, path)
    sampler = prefix.removesuffix(_TRANSFORMER)
    around = {
        name.removeprefix(sampler): tensor
        for name, tensor in weights.items()
        if name.startswith(sampler) and not name.startswith(prefix)
    }
    around = {name: tensor for name, tensor in around.items() if not tensors.is_average(name)}
    if unexpected := around.keys() - set(_HISTORY):
        raise InputError(f"{path}: unexpected weights {checkpoint.listed(unexpected)} beside {prefix}{_CODES}")
    return own, around


def _sizes(weights: tensors.Weights, said: Values, path: Path) -> AbsorbingConfig:
    """The sizes that weights and config agree on."""
    vocabulary, dim = tensors.shape_of(weights, _HEAD, 2, path)
    rows, columns = tensors.shape_of(weights, _CODES, 2, path)
    _, block, _ = tensors.shape_of(weights, _POSITIONS, 3, path)
    if rows != vocabulary + 1:
        raise InputError(
            f"{path}: {_CODES} has {rows} rows, but {_HEAD} gives {vocabulary} codes: with the mask it would have "
            f"{vocabulary + 1}, so this is no absorbing sampler"
        )
    depth = len({match[1] for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))})
    for key, found, where in (
        ("codebook_size", vocabulary, f"rows of {_HEAD}"),
        ("mask_id", vocabulary, f"last row of {_CODES}"),
        ("bert_n_emb", columns, f"columns of {_CODES}"),
        ("bert_n_layers", depth, "blocks in the weights"),
        ("block_size", block, f"rows of {_POSITIONS}"),
    ):
        _compare(said, key, found, where, path)
    grid = _grid(said)
    if math.prod(grid) > block:
        raise InputError(
            f"{said.where} says latent_shape = {list(grid)}, {math.prod(grid)} codes, but {path} has {block} "
            f"(rows of {_POSITIONS})"
        )
    with said.named():
        return AbsorbingConfig(vocabulary, grid, dim, said.whole("bert_n_head"), depth)


def _grid(said: Values) -> tuple[int, int]:
    """``(h, w)`` of ``latent_shape``, which is ``[1, h, w]``."""
    shape = said.wholes("latent_shape")
    if len(shape) not in (2, 3) or shape[:-2] not in ((), (1,)):
        raise said.bad("latent_shape", "[1, h, w]", list(shape))
    return shape[-2], shape[-1]


def _total_steps(history: tensors.Weights, sizes: AbsorbingConfig, said: Values, path: Path) -> int:
    """How many times the run knew: what config and histories agree on, or else one for each code."""
    for name, tensor in history.items():
        if tensor.ndim != 1 or len(tensor) < 2:
            raise InputError(f"{path}: {name} is {list(tensor.shape)}, not one number for each time")
        _compare(said, "total_steps", len(tensor) - 1, f"{name}, which has 0 too", path)
    known = [len(tensor) - 1 for tensor in history.values()]
    return said.whole("total_steps", known[0] if known else math.prod(sizes.latent_grid))


def _compare(said: Values, key: str, found: int, where: str, path: Path) -> None:
    value = said.whole(key, found)
    if value != found:
        raise InputError(f"{said.where} says {key} = {value}, but {path} has {found} ({where})")


def _published(name: str) -> str | tuple[str, ...]:
    """The published name of one of our tensors; keys and values, which we have in one, are two."""
    for pattern, replacement in _NAMES.items():
        name = re.sub(pattern, replacement, name)
    if _KEY_VALUE in name:
        return tuple(name.replace(_KEY_VALUE, f".attn.{part}.") for part in ("key", "value"))
    return name


def _schedule(total_steps: int, said: Values) -> Schedule:
    """The default schedule: as many steps as the run had times, unless the config names another number to sample in."""
    steps, temperature = said.whole("sample_steps", total_steps), said.get("temp", 1.0)
    with said.named():
        return Schedule.from_settings({"steps": steps, "temperature": temperature})
