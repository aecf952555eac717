"""Which class does a published model's label mean?

Its ImageNet runs kept latents in folders named by number, and a folder data set sorts names as strings: 0, 1, 10, 100,
101, ... So class 2 of the model is ImageNet's class 10. A bundle's label i must mean the true class i: the rows of the
class embedding are put into that order once, at import, and nothing behind it knows that there was another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from sundae_rt.errors import InputError, shown
from sundae_rt.training.data import check_labels

LabelOrder = Literal["index", "string"]
"""How a run numbered its classes: as they are, or by the string order of their numbers."""


def true_classes(count: int, order: LabelOrder) -> list[int]:
    """The true class of each of a model's classes.

    Raises:
        InputError: an unknown order.
    """
    if order not in get_args(LabelOrder):
        raise InputError(f"the label order must be one of {', '.join(get_args(LabelOrder))}, not {shown(order)}")
    return sorted(range(count), key=str if order == "string" else None)


@torch.no_grad()
def reorder(embedding: nn.Embedding, order: LabelOrder) -> None:
    """Puts the rows of a class embedding, ``[classes, dim]``, from the model's order into that of the true classes."""
    rows = embedding.weight.clone()
    embedding.weight[true_classes(len(rows), order)] = rows


def label_names(count: int, names: Path | None) -> tuple[str, ...] | None:
    """A name for each true class: the lines of a file, or else its number; None where there are no classes.

    Raises:
        InputError: names for a model without classes, or not one different name for each class.
    """
    if not count:
        if names is not None:
            raise InputError(f"{names} names labels, but the prior has none")
        return None
    if names is None:
        return tuple(map(str, range(count)))
    try:
        lines = [line.strip() for line in names.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the label names {names}: {error}") from error
    lines = [line for line in lines if line]
    check_labels(lines, str(names))
    if len(lines) != count or len(set(lines)) != count:
        raise InputError(f"{names} has {len(set(lines))} different names, but the prior has {count} classes")
    return tuple(lines)
