"""An engine on a GPU, run on NumPy arrays: bindings checked, batches fitted to its profiles and to the GPU's memory.

Whether it runs once or several times in a row, everything goes up in one copy, one comes down, and the host waits once.
"""

import logging
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.backends.driver import Driver, OutOfDeviceMemory
from sundae_rt.errors import BackendError
from sundae_rt.tensorrt.block import Block
from sundae_rt.tensorrt.guidance import GUIDED, guided_rows
from sundae_rt.tensorrt.opening import Library
from sundae_rt.tensorrt.profiles import Profile, choose

Arrays = dict[str, NDArray[Any]]

_SCRATCH: Final = ""  # the name of the engine's own working memory among the buffers
_TYPES: Final = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}

_log = logging.getLogger("sundae_rt")


class UnusableEngine(BackendError):
    """The bytes of an engine do not load here: it must be built anew."""


class Engine:
    """A loaded engine; see `sundae_rt.backends.Graph`.

    A batch that no profile holds is run in parts; one that the GPU has no memory for too, and then no larger one is
    tried again. The GPU's memory is given back when nothing refers to the engine any more.

    Args:
        library: the one that built it.
        driver: the GPU.
        data: the engine's bytes.
        name: for messages.

    Raises:
        UnusableEngine: the bytes do not load.
        BackendError: its bindings are of a kind that this package never makes.
    """

    def __init__(self, library: Library, driver: Driver, data: bytes, name: str) -> None:
        self._library, self._driver, self._name = library, driver, name
        with library.lock:
            library.forget()
            driver.attach()
            self._runtime = library.module.Runtime(library.logger)  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                raise UnusableEngine(f"{name}: its engine does not load: {library.failure()}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {entry: self._engine.get_tensor_mode(entry) == library.module.TensorIOMode.INPUT for entry in names}
        self._types = {entry: self._type(entry) for entry in names}
        self._behind = {entry: tuple(self._engine.get_tensor_shape(entry))[1:] for entry in names}
        self._outputs = [entry for entry in names if not is_input[entry]]
        self._guided = is_input.get(GUIDED, False)
        self.inputs: Mapping[str, tuple[int | None, ...]] = {
            entry: tuple(None if size < 0 else size for size in self._behind[entry])
            for entry in names
            if is_input[entry] and entry != GUIDED
        }
        self._profiles = [self._profile(index) for index in range(self._engine.num_optimization_profiles)]
        self._limit = max(one.largest for one in self._profiles)
        self._contexts: dict[int, Any] = {}
        self._buffers: dict[str, tuple[int, int]] = {}  # by name: address and size
        weakref.finalize(self, _give_back, driver, self._buffers).atexit = False
        self._lock = threading.Lock()  # an execution context serves one caller at a time, and a GPU one batch

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `Graph.run`."""
        return self._in_parts(inputs, {}, None)

    def unroll(
        self,
        inputs: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        *,
        carry: tuple[str, str],
        keep: str,
    ) -> NDArray[Any]:
        """See `UnrollingGraph.unroll`. Guided rows are the same every time."""
        return self._in_parts(inputs, each, _Loop(*carry, keep))[keep]

    def _in_parts(
        self, inputs: Mapping[str, NDArray[Any]], each: Mapping[str, NDArray[Any]], loop: "_Loop | None"
    ) -> Arrays:
        """All rows, as many at once as profiles and memory let."""
        if each and (len({len(array) for array in each.values()}) != 1 or not len(next(iter(each.values())))):
            raise BackendError(f"{self._name} takes inputs of as many steps each, one or more, of {', '.join(each)}")
        rows = self._checked_rows({**inputs, **{entry: array[0] for entry, array in each.items()}})
        parts = []
        with self._lock:
            self._driver.attach()
            start = 0
            while start < rows:
                count = min(rows - start, self._limit)
                taken = start + np.arange(count)
                try:
                    parts.append(self._run_padded(inputs, each, loop, taken))
                    start += count
                except OutOfDeviceMemory as error:
                    self._shrink(count, error)
        return {entry: np.concatenate([part[entry] for part in parts], int(loop is not None)) for entry in parts[0]}

    def _run_padded(
        self,
        inputs: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        loop: "_Loop | None",
        rows: NDArray[np.intp],
    ) -> Arrays:
        """Some rows, as many as a profile holds."""
        chosen = choose(self._profiles, len(rows))
        assert chosen is not None, "the limit is within a profile"
        profile, padded = chosen
        # Repeat the last row, which costs nothing that a smaller batch would save.
        taken = rows[np.minimum(np.arange(padded), len(rows) - 1)]
        ready = {entry: array[taken] for entry, array in inputs.items()}
        if self._guided:
            ready[GUIDED] = guided_rows(ready["guidance"])
        outputs = self._run_batch(profile, ready, {entry: array[:, taken] for entry, array in each.items()}, loop)
        kept = slice(len(rows)) if loop is None else (slice(None), slice(len(rows)))
        return {entry: array[kept] for entry, array in outputs.items()}

    def _run_batch(self, profile: int, same: Arrays, each: Arrays, loop: "_Loop | None") -> Arrays:
        """One copy up, the runs, one copy down, and then only a wait.

        The engine's tensors stay at their addresses, and what differs from run to run is copied there: a CUDA graph
        that was captured of a run serves for the next as long as no address changes.
        """
        count = len(next(iter(each.values()))) if each else 1
        context = self._context(profile)
        self._set_shapes(context, {**same, **{entry: array[0] for entry, array in each.items()}})
        fixed, step = _block(same), _block({entry: array[0] for entry, array in each.items()})
        out = Block({entry: (tuple(context.get_tensor_shape(entry)), self._types[entry]) for entry in self._outputs})
        kept = out.bytes_of(loop.keep) if loop else 0

        above = self._buffer("inputs", fixed.size + count * step.size)
        below = self._buffer("outputs", out.size + count * kept)
        self._bind(context, fixed, above)
        self._bind(context, step, above + fixed.size)  # where the inputs of the first run lie
        self._bind(context, out, below)
        working = context.update_device_memory_size_for_shapes()
        context.set_device_memory(self._buffer(_SCRATCH, working), self._buffers[_SCRATCH][1])

        sent = np.zeros(fixed.size + count * step.size, np.uint8)
        fixed.pack(same, sent[: fixed.size])
        for index, block in enumerate(sent[fixed.size :].reshape(count, step.size)):
            step.pack({entry: array[index] for entry, array in each.items()}, block)
        self._driver.upload(sent, above)
        for index in range(count):
            if loop and index:
                self._driver.copy(above + fixed.size + index * step.size, above + fixed.size, step.size)
                place = above + fixed.offsets[loop.source]
                self._driver.copy(below + out.offsets[loop.target], place, out.bytes_of(loop.target))
            if not context.execute_async_v3(self._driver.stream):
                raise self._failed("failed")
            if loop:
                self._driver.copy(below + out.offsets[loop.keep], below + out.size + index * kept, kept)
        got = np.empty(count * kept if loop else out.size, np.uint8)
        self._driver.download(below + (out.size if loop else 0), got)
        self._driver.synchronize()
        if loop is None:
            return out.views(got)
        shape = (count, *context.get_tensor_shape(loop.keep))
        return {loop.keep: got.view(self._types[loop.keep]).reshape(shape)}

    def _set_shapes(self, context: Any, inputs: Arrays) -> None:
        for entry, array in inputs.items():
            if not context.set_input_shape(entry, array.shape):
                raise self._failed(f"refuses {entry} {list(array.shape)}")
        if missing := context.infer_shapes():
            raise self._failed(f"cannot tell the shapes of {', '.join(missing)}")

    def _bind(self, context: Any, block: Block, address: int) -> None:
        for entry, offset in block.offsets.items():
            if not context.set_tensor_address(entry, address + offset):
                raise self._failed(f"takes no memory for {entry}")

    def _context(self, profile: int) -> Any:
        """The execution context of a profile, whose working memory is ours to give, as much as a batch needs."""
        if profile not in self._contexts:
            self._library.forget()
            context = self._engine.create_execution_context(self._settings())
            if context is None:
                reason = self._library.failure()
                if "out of memory" in reason.lower():
                    raise OutOfDeviceMemory(f"{self._driver.device.name}: {reason}")
                raise BackendError(f"{self._name}: its engine does not start: {reason}")
            if not context.set_optimization_profile_async(profile, self._driver.stream):
                raise self._failed(f"refuses its profile {self._profiles[profile]}")
            self._driver.synchronize()
            self._contexts[profile] = context
        return self._contexts[profile]

    def _settings(self) -> Any:
        """How contexts are made: with memory of ours, and where the library can, captured as a CUDA graph."""
        module = self._library.module
        ours = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(module, "CudaGraphStrategy"):
            return ours
        settings = self._engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(ours)
        # At each size of batch it captures anew; a batch of few images is bound by its launches, which this saves.
        settings.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return settings

    def _buffer(self, entry: str, size: int) -> int:
        """The address of a tensor's memory on the GPU, grown where it is too small; also of an empty tensor's."""
        address, held = self._buffers.get(entry, (0, 0))
        if held < max(size, 1):
            if address:
                del self._buffers[entry]
                self._driver.free(address)
            self._buffers[entry] = self._driver.allocate(max(size, 1)), max(size, 1)
        return self._buffers[entry][0]

    def _shrink(self, rows: int, error: OutOfDeviceMemory) -> None:
        """Half as many rows at a time from now on."""
        self._release()
        if rows == 1:
            raise BackendError(f"{self._name}: out of GPU memory for a single image: {error}") from error
        self._limit = rows // 2
        _log.warning("%s: %s: going on with batches of %d instead of %d", self._name, error, self._limit, rows)

    def _release(self) -> None:
        self._contexts.clear()
        _give_back(self._driver, self._buffers)

    def _checked_rows(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        """How many rows a batch has; what is wrong with it is said before the GPU sees it."""
        if set(inputs) != set(self.inputs):
            raise BackendError(f"{self._name} takes {', '.join(self.inputs)}, not {', '.join(inputs) or 'nothing'}")
        rows = {array.shape[:1] for array in inputs.values()}
        if len(rows) != 1 or not min(rows) or min(rows)[0] < 1:
            shapes = ", ".join(f"{entry} {list(array.shape)}" for entry, array in inputs.items())
            raise BackendError(f"{self._name} takes as many rows of each, one or more, not {shapes}")
        for entry, array in inputs.items():
            if array.dtype != self._types[entry] or array.shape[1:] != self._behind[entry]:
                raise BackendError(
                    f"{self._name} takes {entry} {np.dtype(self._types[entry])} {['N', *self._behind[entry]]}, not "
                    f"{array.dtype} {list(array.shape)}"
                )
        return int(min(rows)[0])

    def _type(self, entry: str) -> type[np.generic]:
        found = str(self._engine.get_tensor_dtype(entry)).rpartition(".")[2]
        if found not in _TYPES:
            raise BackendError(f"{self._name}: its engine has {entry} as {found}, which NumPy does not know")
        return _TYPES[found]

    def _profile(self, index: int) -> Profile:
        """A profile's batch sizes, read from the first input that has the batch as first axis."""
        first = next(iter(self.inputs))
        smallest, likely, largest = (next(iter(shape)) for shape in self._engine.get_tensor_profile_shape(first, index))
        return Profile(smallest, likely, largest)

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self._name}: its engine {what}: {self._library.failure()}")


@dataclass(frozen=True, slots=True)
class _Loop:
    """What runs in a row hand on: the output `target` is the next one's input `source`; `keep` is what is wanted."""

    source: str
    target: str
    keep: str


def _block(arrays: Arrays) -> Block:
    return Block({entry: (array.shape, array.dtype) for entry, array in arrays.items()})


def _give_back(driver: Driver, buffers: dict[str, tuple[int, int]]) -> None:
    driver.attach()
    while buffers:
        driver.free(buffers.popitem()[1][0])
