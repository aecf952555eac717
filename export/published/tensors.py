"""The tensors of a published file, found by name and put into this project's own model.

Whatever nests around the tensors (``state_dict``, ``first_stage_model``, a wrapper) becomes part of their names, so one
search for a prefix finds a model wherever it lies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sundae_rt.errors import InputError, one_line
from sundae_rt.training import checkpoint

Weights = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)

_NAMED = 6  # names that a message lists


def is_own(path: Path) -> bool:
    """Whether a path is a checkpoint of this project, of whatever kind.

    Raises:
        InputError: a file that cannot be read.
    """
    return not path.is_dir() and path.suffix != ".safetensors" and "kind" in checkpoint.read(path)


def read(path: Path) -> Weights:
    """All tensors of a file, ``.safetensors`` or PyTorch's, by their names, dots between the levels of nesting.

    Raises:
        InputError: missing, unreadable, or holding more than tensors and plain values.
    """
    if path.suffix != ".safetensors":
        return dict(_flat(checkpoint.read(path), ""))
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from error


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def has(weights: Weights, parts: str) -> bool:
    """Whether some name holds one of a model's parts, a regular expression, behind any prefix."""
    return bool(_prefixes(weights, parts))


def of_model(weights: Weights, parts: str, path: Path) -> Weights:
    """The weights of the one model whose parts these are, by their names without what stands before them.

    Where an autoencoder lies beside others inside a bigger model, it is the one called ``first_stage_model``.

    Raises:
        InputError: more than one such model; each prefix is named.
    """
    found = _prefixes(weights, parts)
    chosen = [prefix for prefix in found if prefix.endswith("first_stage_model.")] or found
    if len(chosen) != 1:
        raise InputError(f"{path} holds {len(chosen)} such models, under {' and '.join(map(repr, chosen))}: keep one")
    prefix = chosen[0]
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _prefixes(weights: Weights, parts: str) -> list[str]:
    pattern = re.compile(rf"((?:.*?\.)?)(?:{parts})\.")
    counts = Counter(match[1] for name in weights if (match := pattern.match(name)))
    return [prefix for prefix, _ in counts.most_common()]


def without(weights: Weights, *prefixes: str) -> Weights:
    """The weights whose names start with none of these."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefixes)}


def filled(
    build: Callable[[], Model],
    weights: Weights,
    published: Callable[[str], str | tuple[str, ...]],
    where: str,
    unused: Container[str] = (),
) -> Model:
    """A model with published weights in it, float32, in evaluation mode.

    Args:
        build: makes the model.
        weights: by their published names.
        published: our name of a tensor to the published one, or to those whose rows it holds, in their order.
        where: the two sides that must agree, for messages: ``FILE does not fit CONFIG``.
        unused: published names that may be there without having a place in the model.

    Raises:
        InputError: missing, unexpected or wrongly shaped weights, by their published names.
    """
    with torch.device("meta"):  # no memory, and no time for random numbers that are thrown away
        model = build()
    parts = {name: _several(published(name)) for name in model.state_dict()}
    wanted = {part: name for name, several in parts.items() for part in several}
    missing = wanted.keys() - weights.keys()
    unexpected = {name for name in weights.keys() - wanted.keys() if name not in unused}
    if missing or unexpected:
        raise InputError(f"{where}: missing weights {_listed(missing)}; unexpected weights {_listed(unexpected)}")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, own in wanted.items():
        shape = shapes[own]
        if (count := len(parts[own])) > 1:
            shape = [shape[0] // count, *shape[1:]]
        if list(weights[name].shape) != shape:
            raise InputError(f"{where}: {name} is {list(weights[name].shape)}, the config asks for {shape}")
    filling = {own: [weights[part].float() for part in several] for own, several in parts.items()}
    model.load_state_dict(
        {own: torch.cat(several) if len(several) > 1 else several[0] for own, several in filling.items()}, assign=True
    )
    return model.requires_grad_(False).eval()


def _several(published: str | tuple[str, ...]) -> tuple[str, ...]:
    return (published,) if isinstance(published, str) else published


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:_NAMED]) or "none"
    return shown if len(ordered) <= _NAMED else f"{shown} and {len(ordered) - _NAMED} more"
