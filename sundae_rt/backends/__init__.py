"""Backends: what runs a bundle's graphs, behind one small protocol, and the choice of one by name.

What is asked for runs or fails with a message that names the missing piece. Only `auto` chooses, and says what it chose
in the log of `sundae_rt` (level INFO) and in `Runtime.backend`.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from sundae_rt.backends.origin import Origin
from sundae_rt.errors import BackendError, InputError, shown

_log = logging.getLogger("sundae_rt")


class Graph(Protocol):
    """One loaded graph. It may be run from several threads at once.

    Attributes:
        inputs: its inputs by name: the shape behind the batch, None where a size is free.
    """

    inputs: Mapping[str, tuple[int | None, ...]]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph on named arrays whose first axis is the batch, and return its named outputs.

        Raises:
            BackendError: the graph refused its inputs, or failed; one line.
        """
        ...


class Backend(Protocol):
    """A way to run graphs: a library together with a device.

    Attributes:
        name: what `load(..., backend=name)` calls it.
        variants: the precision variants that `variant="auto"` takes, best first.
        provides: what a variant of a graph may require of it.
    """

    name: str
    variants: tuple[str, ...]
    provides: frozenset[str]

    def load(self, model: bytes, name: str, folder: Path | None = None, origin: Origin | None = None) -> Graph:
        """Load a graph from the bytes of its file; `name` is for messages.

        `folder` holds the file of the weights that are not in `model`, where there is one, while this runs. `origin` is
        for a backend that keeps what it makes of a graph.

        Raises:
            BackendError: the bytes are no graph that this backend can run; one line.
        """
        ...


def _cpu(threads: int | None) -> Backend:
    from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.cpu(threads)


def _cuda(threads: int | None) -> Backend:
    from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.cuda(threads)


def _tensorrt(threads: int | None) -> Backend:
    from sundae_rt.backends.tensorrt import TensorRTBackend

    return TensorRTBackend.open()


# By name, fastest first: the order in which `auto` tries them. Each imports its library only when it is opened.
_BACKENDS: dict[str, Callable[[int | None], Backend]] = {"tensorrt": _tensorrt, "cuda": _cuda, "cpu": _cpu}

NAMES = ("auto", *_BACKENDS)


def open_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """Open a backend by name, or with `auto` the fastest that is present.

    Args:
        name: one of `NAMES`.
        threads: threads for what runs on the CPU; None takes as many as the process may use cores.

    Raises:
        InputError: an unknown name.
        BackendError: the backend is not present; the message says what is missing.
    """
    if name not in ("auto", *_BACKENDS):
        raise InputError(f"backend must be one of {', '.join(NAMES)}, not {shown(name)}")
    if name != "auto":
        return _BACKENDS[name](threads)
    missing = []
    for candidate, opener in _BACKENDS.items():
        try:
            backend = opener(threads)
        except BackendError as error:
            missing.append(f"{candidate}: {error}")
            continue
        _log.info("auto picked the backend %s%s", candidate, "".join(f"; {reason}" for reason in missing))
        return backend
    raise BackendError(f"no backend is present: {'; '.join(missing)}")
