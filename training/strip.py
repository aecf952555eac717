"""Writes the tensors of a PyTorch file to a file of their own, without what else it holds.

``python -m sundae_rt.training.strip FILE OUT``. Nothing in ``FILE`` is run, so it need not be trusted, and classes that
it names need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from sundae_rt.errors import InputError
from sundae_rt.files import check_new
from sundae_rt.training import checkpoint, foreign


def strip(path: Path, out: Path, say: Callable[[str], None] = print) -> None:
    """Writes what :func:`foreign.read` finds in ``path`` to ``out``, and says what it leaves out.

    Raises:
        InputError: no file that ``torch.save`` wrote, or one without tensors; or ``out`` exists or cannot be written.
    """
    check_new(out)
    contents = foreign.read(path)
    left_out = ", ".join(contents.foreign) or "nothing"
    if not (count := _tensors(contents.values)):
        raise InputError(
            f"{path} holds no tensors outside of objects ({left_out}): save the state_dict() of its model instead"
        )
    checkpoint.save(out, contents.values)
    say(f"wrote {out}: {count} tensors; left out: {left_out}")


def _tensors(values: Any) -> int:
    if isinstance(values, dict):
        return sum(map(_tensors, values.values()))
    return sum(map(_tensors, values)) if isinstance(values, list | tuple) else isinstance(values, Tensor)


@click.command(help="Write the tensors of a PyTorch FILE to OUT, without what else it holds. Nothing in it is run.")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(file: Path, out: Path) -> None:
    """Runs :func:`strip` from the command line."""
    try:
        strip(file, out, click.echo)
    except InputError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
