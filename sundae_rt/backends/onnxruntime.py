"""ONNX Runtime: the backends `cpu` and `cuda`."""

import contextlib
import ctypes
import io
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from sundae_rt.backends import installation
from sundae_rt.backends.binding import unroll
from sundae_rt.backends.cores import Cores, available_cores
from sundae_rt.backends.driver import load_library
from sundae_rt.backends.origin import Origin
from sundae_rt.backends.processor import INT8, instructions
from sundae_rt.backends.rows import Outputs, run_side_by_side
from sundae_rt.backends.source import GraphSource
from sundae_rt.errors import BackendError, one_line
from sundae_rt.parallel import all_at_once

# The smallest model there is (int32 x -> Identity -> y), as the bytes of its protobuf: it tells whether an execution
# provider starts on this machine, which `get_available_providers` does not (that lists what was compiled in).
_PROBE: Final = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01pZ\x0f\n\x01x\x12\n\n\x08\x08\x06\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x06\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0d"
)

# Operators that do a model's work. A GPU backend leaves the arithmetic on shapes to the CPU; these it must run itself.
_WORK: Final = {
    *("MatMul", "Gemm", "FusedMatMul", "Conv", "FusedConv", "NhwcConv", "Softmax", "Attention", "MultiHeadAttention"),
    *(
        "LayerNormalization",
        "SkipLayerNormalization",
        "SimplifiedLayerNormalization",
        "GroupNormalization",
        "GroupNorm",
    ),
    *("InstanceNormalization", "Gelu", "FastGelu", "BiasGelu", "CumSum", "ArgMax", "Resize", "MatMulInteger"),
}

_FATAL_ONLY: Final = 4  # of ONNX Runtime's log levels: what goes wrong is raised, and stderr stays clean


class OnnxRuntimeBackend:
    """ONNX Runtime with one execution provider. See `sundae_rt.backends.Backend`."""

    def __init__(
        self,
        name: str,
        variants: tuple[str, ...],
        feature: str,
        provider: str,
        options: Mapping[str, str],
        threads: int | None,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            remedy = installation.fault() or "pip install --force-reinstall onnxruntime"
            raise BackendError(f"{name}: ONNX Runtime cannot be imported ({one_line(error)}): {remedy}") from error
        if not installation.is_whole(onnxruntime):
            raise BackendError(f"{name}: {installation.fault()}")
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)  # of the whole process: there is no narrower one for this
        self.name = name
        self.variants = variants
        self.provides = frozenset({name, feature} if feature else {name})
        self.derives: Mapping[str, str] = {}
        self.unrolls = provider != "CPUExecutionProvider"
        self._library = onnxruntime
        self._provider = provider
        self._options = dict(options)
        self._cores = Cores(available_cores() if threads is None else threads)

    @classmethod
    def cpu(cls, threads: int | None = None) -> "OnnxRuntimeBackend":
        """The CPU, with `threads` threads (None: as many as the process may use cores)."""
        variants, feature = (("int8", "fp32"), "uint8") if instructions() & INT8 else (("fp32",), "")
        return cls("cpu", variants, feature, "CPUExecutionProvider", {}, threads)

    @classmethod
    def cuda(cls, threads: int | None = None) -> "OnnxRuntimeBackend":
        """The first visible NVIDIA GPU. Only the integer work on shapes is left to the CPU.

        Raises:
            BackendError: this ONNX Runtime has no CUDA, or its CUDA does not start on this machine.
        """
        # TF32 would make an fp32 graph round like no other backend. A new batch size must not start a search for
        # convolution algorithms: batches shrink whenever images finish.
        options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        backend = cls("cuda", ("fp16", "bf16", "fp32"), "half", "CUDAExecutionProvider", options, threads)
        backend._check_cuda()
        return backend

    def load(self, source: GraphSource) -> "OnnxRuntimeGraph":
        """See `Backend.load`; nothing is derived here, and nothing kept."""
        is_small, on_cpu = source.is_small, self._provider == "CPUExecutionProvider"
        threads = [self._cores.count]
        if is_small and on_cpu and self._cores.count > 1:
            threads.append(1)
        session, *others = all_at_once([partial(self._session, source, count, is_small) for count in threads])
        if self._provider not in session.get_providers():
            raise BackendError(f"{self.name}: {self._provider} does not start: {self._why_not()}")
        if left := self._left_to_cpu(session):
            raise BackendError(
                f"{self.name}: {self._provider} does not run all of {source.name}: it leaves {', '.join(left)} to the "
                "CPU"
            )
        name = f"{self.name}: {source.name}"
        if not on_cpu:
            return OnnxRuntimeDeviceGraph(self._library, session, name, "cuda")
        options = None if source.is_light else self._returning()
        return OnnxRuntimeGraph(session, name, others[0] if others else None, self._cores, options)

    def is_built(self, origin: Origin) -> bool:
        """See `Backend.is_built`; nothing is built here."""
        return True

    def _session(self, source: GraphSource, threads: int, is_small: bool, **entries: str) -> Any:
        settings = self._library.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.use_deterministic_compute = True
        # A pattern is one more block for all that a run holds, for each size of batch, beside what the first run took.
        # That saves a small graph a quarter of its time, and costs a large one hundreds of megabytes.
        settings.enable_mem_pattern = is_small
        # The memory that runs share grows by powers of two; weights are as large as they are.
        settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if source.folder is not None:
            settings.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(source.folder)
            )
        if self._provider != "CPUExecutionProvider":
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for key, value in entries.items():
            settings.add_session_config_entry(f"session.{key}", value)
        try:
            return self._library.InferenceSession(
                source.model, settings, providers=[(self._provider, self._options)], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BackendError(f"{self.name}: cannot load {source.name}: {one_line(error)}") from error

    def _returning(self) -> Any:
        """Options of a run that gives back, when it ends, the memory of what it worked out."""
        options = self._library.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _check_cuda(self) -> None:
        if self._provider not in self._library.get_available_providers():
            remedy = installation.fault() or installation.SWAP
            raise BackendError(f"cuda: this ONNX Runtime was built without CUDAExecutionProvider: {remedy}")
        if hasattr(self._library, "preload_dlls"):  # finds the CUDA libraries that pip installed; prints what it misses
            with contextlib.redirect_stdout(io.StringIO()):
                self._library.preload_dlls()
        # One operator, which every provider has: where it does not run on the GPU, nothing does.
        try:
            self._session(GraphSource(_PROBE, "a probe"), 1, True, disable_cpu_ep_fallback="1")
        except BackendError as error:
            raise BackendError(f"cuda: CUDAExecutionProvider does not start: {self._why_not()}") from error

    def _left_to_cpu(self, session: Any) -> list[str]:
        """The operators of a model's own work that a GPU provider leaves to the CPU, where this version can tell."""
        if self._provider == "CPUExecutionProvider" or not hasattr(session, "get_provider_graph_assignment_info"):
            return []
        assigned = session.get_provider_graph_assignment_info()
        left = [part for part in assigned if part.ep_name == "CPUExecutionProvider"]
        return sorted({node.op_type for part in left for node in part.get_nodes()} & _WORK)

    def _why_not(self) -> str:
        """Why the CUDA provider does not start, as far as can be found out."""
        try:
            load_library()
        except BackendError as error:
            return str(error)
        suffix = ".dll" if sys.platform == "win32" else ".so"
        prefix = "" if sys.platform == "win32" else "lib"
        folder = Path(self._library.__file__).parent / "capi"
        try:
            for provider in ("shared", "cuda"):
                ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_{provider}{suffix}"), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return f"a library that it needs is missing ({one_line(error)}): pip install 'sundae-rt[cuda]'"
        return (
            f"the CUDA and cuDNN libraries do not fit: onnxruntime-gpu {self._library.__version__} needs those that "
            "pip install 'sundae-rt[cuda]' brings, and a driver that is new enough for them"
        )


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime. See `sundae_rt.backends.Graph`.

    Args:
        session: runs a batch with all threads together.
        name: for messages.
        lone: the same graph with one thread, or None. Batches of as many rows as cores or more run on it side by
            side: the threads of one session wait for each other at every operator, which costs a small graph much time.
        cores: those of the backend, where it computes on the CPU.
        options: of each run, ONNX Runtime's own; None are its usual ones.
    """

    def __init__(
        self, session: Any, name: str, lone: Any = None, cores: Cores | None = None, options: Any = None
    ) -> None:
        self._session = session
        self._options = options
        self._lone = lone
        self._cores = cores
        self._name = name
        self._outputs = [output.name for output in session.get_outputs()]
        self.inputs: Mapping[str, tuple[int | None, ...]] = {
            entry.name: tuple(size if isinstance(size, int) else None for size in entry.shape[1:])
            for entry in session.get_inputs()
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Graph.run`."""
        try:
            return dict(zip(self._outputs, self._run(inputs), strict=True))
        except BackendError:
            raise
        except Exception as error:  # as above
            raise BackendError(f"{self._name} failed: {one_line(error)}") from error

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        if self._cores is None:
            return self._on(self._session, inputs)
        counts = {array.shape[:1] for array in inputs.values()}
        rows = counts.pop()[0] if len(counts) == 1 and () not in counts else 0  # 0: let ONNX Runtime say what is wrong
        if self._lone is None or rows < self._cores.count:
            with self._cores.held(self._cores.count):
                return self._on(self._session, inputs)
        return run_side_by_side(self._one, inputs, self._cores.count)

    def _one(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        assert self._cores is not None
        with self._cores.held(1):
            return self._on(self._lone, inputs)

    def _on(self, session: Any, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        outputs: Outputs = session.run(self._outputs, dict(inputs), self._options)
        return outputs


class OnnxRuntimeDeviceGraph(OnnxRuntimeGraph):
    """A graph in ONNX Runtime on a device with a memory of its own. See `sundae_rt.backends.UnrollingGraph`.

    Args:
        library: ONNX Runtime.
        session: runs the graph.
        name: for messages.
        device: ONNX Runtime's name for the device.
    """

    def __init__(self, library: Any, session: Any, name: str, device: str) -> None:
        super().__init__(session, name)
        self._library = library
        self._device = device

    def unroll(
        self,
        inputs: Mapping[str, NDArray[Any]],
        each: Mapping[str, NDArray[Any]],
        *,
        carry: tuple[str, str],
        keep: str,
    ) -> NDArray[Any]:
        """See `UnrollingGraph.unroll`; here `keep` has the shape and dtype of what is carried."""
        try:
            return unroll(self._library, self._session, self._device, inputs, each, carry, keep)
        except Exception as error:  # as above
            raise BackendError(f"{self._name} failed: {one_line(error)}") from error
