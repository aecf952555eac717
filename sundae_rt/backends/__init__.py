"""Backends: what runs a bundle's graphs, behind one small protocol, opened by name.

What is asked for runs or fails with a message that names the missing piece. Only `auto` chooses: `sundae_rt.choice`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from sundae_rt.backends.origin import Origin
from sundae_rt.backends.source import GraphSource
from sundae_rt.validation import one_of


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


@runtime_checkable
class UnrollingGraph(Graph, Protocol):
    """A graph that can also run several times in a row without the host."""

    def unroll(
        self,
        inputs: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        *,
        carry: tuple[str, str],
        keep: str,
    ) -> NDArray[Any]:
        """Run the graph K times, each time on what it put out the time before, and return one output of every time.

        Args:
            inputs: what is the same every time, and what `carry` names for the first; first axis the batch.
            each: the other inputs, which differ: first axis the K times, second the batch.
            carry: an input, and the output that is this input the next time.
            keep: the output to return.

        Returns:
            Outputs `keep`: first axis the K times, second the batch. The same as K calls of `run` give.

        Raises:
            BackendError: as `run`.
        """
        ...


class Backend(Protocol):
    """A way to run graphs: a library together with a device.

    Attributes:
        name: what `load(..., backend=name)` calls it.
        variants: the precision variants that `auto` takes, best first: those that this backend is there for.
        provides: what a variant of a graph may require of it: its name; "half", graphs in 16 bits; "uint8", exact
            products of unsigned bytes, of which x86 without VNNI clips the sums.
        derives: variants that it makes of a graph's file for another variant, by name, with that other one's name.
        unrolls: whether what it loads is an `UnrollingGraph`.
    """

    name: str
    variants: tuple[str, ...]
    provides: frozenset[str]
    derives: Mapping[str, str]
    unrolls: bool

    def load(self, source: GraphSource) -> Graph:
        """Load a graph.

        Raises:
            BackendError: the bytes are no graph that this backend can run; one line.
        """
        ...

    def is_built(self, origin: Origin) -> bool:
        """Whether `load` of that graph starts at once. False: it would build an engine first, which takes minutes."""
        ...


def _tensorrt(threads: int | None) -> Backend:
    from sundae_rt.backends.tensorrt import TensorRTBackend

    return TensorRTBackend.open()


def _cuda(threads: int | None) -> Backend:
    from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.cuda(threads)


def _openvino(threads: int | None) -> Backend:
    from sundae_rt.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(threads)


def _cpu(threads: int | None) -> Backend:
    from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend.cpu(threads)


# By name, in the order in which `auto` tries them. Each imports its library only when it is opened.
_BACKENDS: dict[str, Callable[[int | None], Backend]] = {
    "tensorrt": _tensorrt,
    "cuda": _cuda,
    "openvino": _openvino,
    "cpu": _cpu,
}


def names() -> tuple[str, ...]:
    """The backends there may be, in the order in which `auto` tries them."""
    return tuple(_BACKENDS)


def open_backend(name: str, threads: int | None = None) -> Backend:
    """Open a backend by name.

    Args:
        name: one of `names()`.
        threads: threads for what runs on the CPU; None takes as many as the process may use cores.

    Raises:
        InputError: an unknown name.
        BackendError: the backend is not present; the message says what is missing.
    """
    return _BACKENDS[one_of("backend", name, names())](threads)
