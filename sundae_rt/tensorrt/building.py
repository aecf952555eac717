"""Builds an engine from a graph: minutes of work, which shows how far it is and ends soon when it is interrupted."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sundae_rt.errors import BackendError, one_line
from sundae_rt.tensorrt.guidance import GUIDED, take_guided_rows
from sundae_rt.tensorrt.opening import Library
from sundae_rt.tensorrt.profiles import Profile

PORTABLE: Final = "portable"
"""The compute capability of an engine that runs on every GPU that TensorRT for RTX serves, except those of 7.5."""

_INTERVAL: Final = 0.2  # seconds between two looks at how far a build is

Progress = Callable[[float], None]


def capabilities(library: Library) -> list[str]:
    """The compute capabilities that a library builds for without such a GPU, as "8.9"; empty where it cannot."""
    known = getattr(library.module, "ComputeCapability", None)
    names = [] if known is None else [name.removeprefix("SM") for name in known.__members__ if name.startswith("SM")]
    return [f"{name[:-1]}.{name[-1]}" for name in sorted(names, key=int)]


def check_capability(library: Library, capability: str) -> None:
    """Refuse a compute capability that a library does not build for.

    Raises:
        BackendError: says which it builds for.
    """
    known = capabilities(library)
    if capability != PORTABLE and capability not in known:
        remedy = "pip install 'sundae-rt[tensorrt]' on a machine with that GPU"
        raise BackendError(
            f"{library.name} {library.version} does not build for compute capability {capability} "
            f"(it builds for {PORTABLE}, {', '.join(known)}): {remedy}"
        )


def build(
    library: Library,
    model: bytes,
    name: str,
    profiles: Sequence[Profile],
    *,
    capability: str | None = None,
    folder: Path | None = None,
    progress: Progress = lambda share: None,
) -> bytes:
    """Build an engine.

    Args:
        library: what builds.
        model: the bytes of an ONNX graph whose inputs all have the batch as first axis.
        name: for messages.
        profiles: the batch sizes to build for.
        capability: compute capability, `PORTABLE` or as "8.9"; None builds for the GPU of this machine.
        folder: holds the file of the weights that are not in `model`, where there is one.
        progress: takes the share that is done, 0 to 1, now and then, in this thread.

    Raises:
        BackendError: the graph has what TensorRT does not take, or building failed; one line.
        KeyboardInterrupt: after the build has stopped.
    """
    job = _Job(library, take_guided_rows(model), name, profiles, capability, folder)
    with library.lock:
        library.forget()
        # A thread of its own, since an exception must not come up inside a callback from native code.
        thread = threading.Thread(target=job.run, name=f"building {name}", daemon=True)
        thread.start()
        try:
            while not job.done.wait(_INTERVAL):
                progress(job.share())
        except BaseException:
            job.cancel()
            thread.join()
            raise
        thread.join()
    if isinstance(job.result, bytes):
        return job.result
    if isinstance(job.result, BackendError):
        raise job.result
    raise BackendError(f"cannot build {name}: {one_line(job.result)}") from job.result


class _Job:
    """One build, run in a thread; `result` is the engine, or what went wrong, once `done` is set."""

    def __init__(
        self,
        library: Library,
        model: bytes,
        name: str,
        profiles: Sequence[Profile],
        capability: str | None,
        folder: Path | None,
    ) -> None:
        self._library, self._module = library, library.module
        self._model, self._name, self._folder = model, name, folder
        self._profiles, self._capability = profiles, capability
        self._phases = _Phases()
        self.done = threading.Event()
        self.result: bytes | Exception = RuntimeError("it has not run")

    def run(self) -> None:
        """Build, whatever comes of it."""
        try:
            self.result = self._engine()
        except Exception as error:  # TensorRT's errors share no base class
            self.result = error
        finally:
            self.done.set()

    def share(self) -> float:
        """How much is done, 0 to 1."""
        return self._phases.share()

    def cancel(self) -> None:
        """Have it stop at the next step."""
        self._phases.cancelled = True

    def _engine(self) -> bytes:
        library, module = self._library, self._module
        builder = module.Builder(library.logger)
        if builder is None:
            raise BackendError(f"cannot build {self._name}: {library.name} does not start: {library.failure()}")
        # Strongly typed, where a version still asks: what the graph says in fp32 stays fp32.
        flags = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flags is None else 1 << int(flags))
        parser = module.OnnxParser(network, library.logger)
        self._parse(parser)
        config = builder.create_builder_config()
        config.progress_monitor = _monitor(module, self._phases)
        config.clear_flag(module.BuilderFlag.TF32)  # an fp32 graph rounds as on every other backend
        if self._capability is not None:
            self._aim(config, self._capability)
        for one in self._profiles:
            config.add_optimization_profile(_profile(builder, network, one, self._name))
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BackendError(f"cannot build {self._name}: {library.name} says: {library.failure()}")
        return bytes(memoryview(engine))

    def _parse(self, parser: Any) -> None:
        # The path is where weights outside the graph lie, beside a graph file whose own name does not matter.
        where = () if self._folder is None else (str(self._folder / "graph.onnx"),)
        if parser.parse(self._model, *where):
            return
        reason = self._library.failure()
        if parser.num_errors:
            error = parser.get_error(0)
            operator = error.node_operator() if hasattr(error, "node_operator") else ""
            reason = f"{operator + ': ' if operator else ''}{' '.join(error.desc().split())}"
        raise BackendError(
            f"cannot build {self._name}: {self._library.name} {self._library.version} does not take its graph: {reason}"
        )

    def _aim(self, config: Any, capability: str) -> None:
        check_capability(self._library, capability)
        if capability == PORTABLE:
            return
        config.num_compute_capabilities = 1
        target = getattr(self._module.ComputeCapability, f"SM{capability.replace('.', '')}")
        if not config.set_compute_capability(target, 0):
            raise BackendError(
                f"cannot build {self._name}: {self._library.name} refuses compute capability {capability}: "
                f"{self._library.failure()}"
            )


class _Phases:
    """How far a build is, from the phases within phases that TensorRT tells of, from any thread."""

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int, int]] = {}  # by name: what it is part of, its steps, those done
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._open[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, index: int) -> bool:
        with self._lock:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, index + 1)
        return not self.cancelled

    def finish(self, name: str) -> None:
        with self._lock:
            self._open.pop(name, None)

    def share(self) -> float:
        with self._lock:
            roots = [name for name, (parent, _, _) in self._open.items() if parent not in self._open]
            self._most = max(self._most, *(self._of(name) for name in roots), 0.0)
            return self._most

    def _of(self, name: str) -> float:
        _, steps, done = self._open[name]
        inside = max((self._of(other) for other, (parent, _, _) in self._open.items() if parent == name), default=0.0)
        return min(1.0, (done + inside) / steps)


def _monitor(module: Any, phases: _Phases) -> Any:
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, index: int) -> bool:
            return phases.step(name, index)

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()


def _profile(builder: Any, network: Any, sizes: Profile, name: str) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        first, *rest = tuple(entry.shape)
        if entry.name == GUIDED:  # most batches have none, and none has more than all
            profile.set_shape(entry.name, (1, 0), (1, 0), (1, sizes.largest))
        elif first != -1 or -1 in rest:
            raise BackendError(
                f"cannot build {name}: its input {entry.name} is {[first, *rest]}, not a batch of one size"
            )
        else:
            shapes = [(rows, *rest) for rows in (sizes.smallest, sizes.likely, sizes.largest)]
            profile.set_shape(entry.name, *shapes)
    return profile
