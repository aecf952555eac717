"""OpenVINO on a CPU: the backend `openvino`, of the extra of that name.

fp32 graphs run as fp32, and 8-bit ones with fp32 between their products. Where the processor can multiply in bf16 the
backend derives two more variants from the same files: `bf16` from `fp32`, and `int8-bf16` from `int8`. Then everything
up to the last product runs in bf16; what follows it (the draw: softmax, cumulated sum, comparisons) stays in fp32.
"""

import functools
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.backends.cores import Cores, available_cores
from sundae_rt.backends.origin import Origin
from sundae_rt.backends.processor import INT8, instructions, is_fast_in_bf16
from sundae_rt.backends.rows import Outputs, run_side_by_side
from sundae_rt.backends.source import GraphSource
from sundae_rt.errors import BackendError, one_line

_DERIVES: Final = {"int8-bf16": "int8", "bf16": "fp32"}


class OpenVinoBackend:
    """OpenVINO's CPU device. See `sundae_rt.backends.Backend`.

    Args:
        threads: how many to compute with; None takes as many as the process may use cores. OpenVINO takes no more.

    Raises:
        BackendError: OpenVINO is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                f"openvino cannot be imported ({one_line(error)}): pip install 'sundae-rt[openvino]'"
            ) from error
        self.name = "openvino"
        is_exact = bool(instructions() & INT8)
        self.provides = frozenset({"openvino", "uint8"} if is_exact else {"openvino"})
        self.unrolls = False
        self._core = _core(openvino)
        self._cores = Cores(min(threads or available_cores(), available_cores()))
        # Where bf16 is only imitated, or slower than fp32, it is there to be asked for, and `auto` leaves it.
        knows_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.derives: Mapping[str, str] = _DERIVES if knows_bf16 else {}
        self.variants = _variants(is_exact, knows_bf16 and is_fast_in_bf16())

    def load(self, source: GraphSource) -> "OpenVinoGraph":
        """See `Backend.load`; nothing is kept here."""
        try:
            return OpenVinoGraph(
                self._core,
                self._read(source),
                f"{self.name}: {source.name}",
                precision="f32" if source.derived is None else "bf16",
                is_small=source.is_small,
                cores=self._cores,
            )
        except RuntimeError as error:  # whatever OpenVINO raises
            raise BackendError(f"{self.name}: cannot load {source.name}: {one_line(error)}") from error

    def is_built(self, origin: Origin) -> bool:
        """See `Backend.is_built`; a graph is compiled in seconds."""
        return True

    def _read(self, source: GraphSource) -> Any:
        if not source.model:
            raise RuntimeError("it is empty")
        if file := source.file():
            return self._core.read_model(file)
        if b"location" not in source.model:  # the key of every reference to weights in another file
            return self._core.read_model(source.model, b"")
        # OpenVINO would look for them in the process's working folder. In an empty one it finds none, and says so.
        with tempfile.TemporaryDirectory(prefix="sundae-rt-", ignore_cleanup_errors=True) as empty:
            path = Path(empty) / "graph.onnx"
            path.write_bytes(source.model)
            return self._core.read_model(path)


@functools.cache
def _core(openvino: Any) -> Any:
    """The process's one core: where several had refused what is no graph, OpenVINO 2026.4 crashed the process later."""
    core = openvino.Core()
    # A mapped file of weights would stay in memory as a whole for as long as the graph does, whatever was made of them.
    core.set_property({"ENABLE_MMAP": False})
    return core


def _variants(int8: bool, bf16: bool) -> tuple[str, ...]:
    """What this backend is there for on a processor that is fast in 8 bits, in bf16, or in both: never fp32."""
    if bf16:
        return ("int8-bf16", "bf16") if int8 else ("bf16",)
    return ("int8",) if int8 else ()


class OpenVinoGraph:
    """A graph in OpenVINO. See `sundae_rt.backends.Graph`.

    A small graph runs the rows of a batch side by side, a core each: the threads of one run wait for each other at
    every operator. Batches of fewer rows than cores leave some idle; once they have taken as long as compiling does,
    the graph is compiled a second time, for all cores together. A large graph is compiled for all together alone.

    Args:
        core: OpenVINO's.
        model: what it read.
        name: for messages.
        precision: "f32" or "bf16".
        is_small: whether the weights may lie in memory twice.
        cores: those of the backend.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """

    def __init__(self, core: Any, model: Any, name: str, *, precision: str, is_small: bool, cores: Cores) -> None:
        self._core = core
        self._name = name
        self._precision = precision
        self._cores = cores
        self._lock = threading.Lock()
        self._types: dict[str, np.dtype[Any]] = {}
        self.inputs: Mapping[str, tuple[int | None, ...]] = {}
        for entry in model.inputs:
            own, shape = entry.get_node().get_friendly_name(), entry.get_partial_shape()
            self._types[own] = np.dtype(entry.get_element_type().to_dtype())
            self.inputs[own] = tuple(None if size.is_dynamic else size.get_length() for size in list(shape)[1:])
        # A result is called by its ONNX name, with this behind it; its tensor may bear the names of others, too.
        self._outputs = [entry.get_node().get_friendly_name().removesuffix("/sink_port_0") for entry in model.outputs]
        start = perf_counter()
        is_split = is_small and cores.count > 1
        self._apart = self._compiled(model, cores.count) if is_split else None
        self._together = None if is_split else self._compiled(model, 1)
        # Kept, where it may be compiled again: what was read holds the weights a second time.
        self._model = model if is_split else None
        self._patience = perf_counter() - start

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Graph.run`."""
        rows = self._checked(inputs)
        try:
            return dict(zip(self._outputs, self._run(inputs, rows), strict=True))
        except RuntimeError as error:  # as above
            raise BackendError(f"{self._name} failed: {one_line(error)}") from error

    def _run(self, inputs: Mapping[str, NDArray[Any]], rows: int) -> Outputs:
        count = self._cores.count
        if self._apart is None:
            return self._all(inputs)
        if rows >= count:
            return run_side_by_side(self._one, inputs, count)
        if self._is_patient():
            start = perf_counter()
            outputs = self._one(inputs)
            with self._lock:
                self._patience -= perf_counter() - start
            return outputs
        return self._all(inputs)

    def _is_patient(self) -> bool:
        """Whether batches of few rows run on one core still; compiles for all cores when they no longer shall."""
        with self._lock:
            if self._together is None and self._patience <= 0:
                self._together = self._compiled(self._model, 1)
                self._model = None
            return self._together is None

    def _one(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        assert self._apart is not None
        with self._cores.held(1):
            return self._apart.run(inputs)

    def _all(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        assert self._together is not None
        with self._cores.held(self._cores.count):
            return self._together.run(inputs)

    def _compiled(self, model: Any, streams: int) -> "_Compiled":
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._cores.count,
            "NUM_STREAMS": streams,
            # Threads that are tied to cores of their own choice would meet those of other graphs there.
            "ENABLE_CPU_PINNING": False,
        }
        return _Compiled(self._core.compile_model(model, "CPU", options))

    def _checked(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        """The number of rows. OpenVINO casts other types without a word, and may crash on other shapes."""
        if set(inputs) != set(self._types):
            raise BackendError(
                f"{self._name} failed: it takes {', '.join(self._types)}, not {', '.join(inputs) or 'nothing'}"
            )
        counts = set()
        for name, array in inputs.items():
            shape = array.shape[1:]
            fits = array.ndim > 0 and len(shape) == len(self.inputs[name])
            if not fits or any(own not in (None, size) for own, size in zip(self.inputs[name], shape, strict=True)):
                raise BackendError(f"{self._name} failed: {name} {list(array.shape)} does not fit {self.inputs[name]}")
            if array.dtype != self._types[name]:
                raise BackendError(f"{self._name} failed: {name} is {array.dtype}, not {self._types[name]}")
            counts.add(len(array))
        if len(counts) != 1:
            raise BackendError(f"{self._name} failed: its inputs have different numbers of rows")
        return int(counts.pop())


class _Compiled:
    """A compiled model and the requests that ran on it, for the next runs. Thread-safe."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._idle: list[Any] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        outputs = list(request.infer(arrays, share_inputs=True).values())
        self._idle.append(request)
        return outputs
