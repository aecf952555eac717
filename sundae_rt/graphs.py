"""The graphs of a bundle on a backend: which variant of each runs, loaded when first needed, outputs checked."""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.backends import Backend, Graph, UnrollingGraph
from sundae_rt.backends.origin import Origin
from sundae_rt.backends.source import SMALL, GraphSource, weight_files
from sundae_rt.bundle import Bundle
from sundae_rt.choice import Variant, choose_variant, main_graph, missing
from sundae_rt.errors import BundleError, SundaeError, shown
from sundae_rt.manifest import Manifest
from sundae_rt.parallel import all_at_once
from sundae_rt.process import Process

_log = logging.getLogger("sundae_rt")

Arrays = dict[str, NDArray[Any]]
_Entries = dict[str, tuple[tuple[int, ...], type[np.generic]]]  # an input or output by name: shape behind batch, dtype
_Shapes = dict[str, _Entries]  # by graph


@contextmanager
def graph_source(bundle: Bundle, name: str, variant: Variant) -> Iterator[GraphSource]:
    """A graph of a bundle in a variant, for a backend to load within the context.

    Raises:
        BundleError: a file that is missing, unreadable or altered, or of which the manifest does not know.
    """
    with bundle.weights(name, variant.source) as folder:
        model, origin = bundle.read(name, variant.source), bundle.origin(name, variant.source)
        data = bundle.manifest.graphs[name][variant.source].data
        for stray in weight_files(model) - ({data.file} if data else set()):
            raise BundleError(
                f"{bundle.path}: {name} has weights in {shown(stray)}, which its manifest does not name: export it"
            )
        pixels = math.prod(bundle.manifest.image_size or ()) if name in ("decoder", "encoder") else 0
        yield GraphSource(model, f"{name} ({variant.name})", folder, variant.derived, origin, pixels)


class Graphs:
    """A bundle's graphs. Thread-safe.

    Attributes:
        variant: precision variant of the denoiser (of the first graph, where there is no denoiser).

    Raises:
        BundleError: the bundle has no such variant.
        BackendError: the variant requires what the backend does not provide.
    """

    def __init__(self, bundle: Bundle, backend: Backend, variant: str) -> None:
        self._bundle = bundle
        self._backend = backend
        manifest = bundle.manifest
        self._variants = {graph: choose_variant(manifest, graph, backend, variant) for graph in manifest.graphs}
        for graph, chosen in self._variants.items():
            if variant in manifest.graphs[graph] and chosen.name != variant:
                lacking = ", ".join(missing(backend, manifest.graphs[graph][variant]))
                _log.warning("%s runs in %s, not %s: %s lacks %s", graph, chosen.name, variant, backend.name, lacking)
        self.variant: Final = self._variants[main_graph(manifest)].name
        self._inputs = _input_shapes(bundle.manifest)
        self._outputs = _output_shapes(bundle.manifest)
        self._loaded: dict[str, Graph] = {}
        self._closed = False
        self._users: list[int] = []  # threads that load or run a graph, each as often as it does
        self._lock = threading.Condition()  # of the three above
        self._process = Process()
        self._loading = {graph: threading.Lock() for graph in manifest.graphs}

    def require(self, *names: str) -> None:
        """Load these graphs, unless they are; several at once, except large ones and those that engines are built for.

        Raises:
            BundleError: the bundle lacks one, its file is damaged, or it does not fit the manifest.
            BackendError: the backend cannot load one.
            SundaeError: they are closed, or were opened in another process.
        """
        self._process.check()
        for name in names:
            self._bundle.variants(name)  # says what is missing, before any is loaded
        if all(name in self._loaded for name in names):
            return
        # The memory that loading takes must not add up, and what takes minutes is for this thread: Ctrl-C reaches it.
        is_large = any(self._bundle.size(name, self._variants[name].source) > SMALL for name in names)
        if is_large or not all(self._backend.is_built(self._origin(name)) for name in names):
            for name in names:
                self._load(name)
            return
        # This thread only waits: a library takes a Ctrl-C that reaches it inside for a fault of its own.
        loads: list[Callable[[], None]] = [partial(self._load, name) for name in names]
        all_at_once([lambda: None, *loads])

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run a graph on arrays whose first axis is the batch, as one batch.

        Raises:
            BundleError: as `require`; or the graph's outputs are not what the manifest lets one expect.
            BackendError: as `require`; or running it failed.
        """
        with self._used(name) as graph:
            outputs = self._checked(name, graph, inputs)
        if name == "encoder" and (largest := int(outputs["codes"].max())) >= self._bundle.manifest.image_codes:
            known = self._bundle.manifest.image_codes
            raise self._misfit(f"encoder finds the code {largest}", f"has a codebook of {known}")
        return outputs

    def unroll_denoiser(
        self, inputs: Mapping[str, NDArray[Any]], each: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.int32]:
        """Run the denoiser K times in a row, each time on the codes that it put out, where the backend `unrolls`.

        Args:
            inputs: what is the same every time, and the codes of the first: [B,...].
            each: what differs, [K,B,...].

        Returns:
            The proposal of each run, int32 [K,B,T].

        Raises:
            BundleError, BackendError: as `run`.
        """
        with self._used("denoiser") as graph:
            assert isinstance(graph, UnrollingGraph), "its backend unrolls"
            proposals = graph.unroll(inputs, each, carry=("codes", "new_codes"), keep="proposal")
        if proposals.shape != each["uniform"].shape or proposals.dtype != np.int32:
            told = f"{proposals.dtype} {list(proposals.shape)}"
            raise self._misfit(f"denoiser proposes {told}", f"means int32 {list(each['uniform'].shape)}")
        return proposals

    def run_in_batches(self, name: str, inputs: Mapping[str, NDArray[Any]], batch_size: int) -> Arrays:
        """Run a graph as `run` does, at most `batch_size` rows at a time, so that its memory stays bounded."""
        count = len(next(iter(inputs.values())))
        parts = [
            self.run(name, {key: value[start : start + batch_size] for key, value in inputs.items()})
            for start in range(0, count, batch_size)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in self._outputs[name]}

    def close(self) -> None:
        """Let go of every graph, once what other threads load and run has ended; from now on they are refused."""
        if not self._process.is_this:  # nothing runs here, and whoever held the lock is not here to give it back
            return
        with self._lock:
            self._closed = True
            # A signal's handler may close what its own thread was in the middle of, which waits for the handler.
            self._lock.wait_for(lambda: all(user == threading.get_ident() for user in self._users))
            self._loaded.clear()

    @contextmanager
    def _used(self, name: str) -> Iterator[Graph]:
        """A graph, which is loaded unless it is; `close` waits for the end of the context."""
        self._process.check()
        self._bundle.variants(name)  # says what is missing
        with ExitStack() as use:
            # Who waits to load is no user yet: it may wait for one whose handler closes, and that would wait for it.
            with self._loading[name]:
                with self._lock:
                    if self._closed:
                        raise SundaeError("the runtime is closed")
                    self._users.append(threading.get_ident())
                    use.callback(self._unused)
                    graph = self._loaded.get(name)
                if graph is None:
                    graph = self._opened(name)
                    with self._lock:
                        if not self._closed:
                            self._loaded[name] = graph
            yield graph

    def _unused(self) -> None:
        with self._lock:
            self._users.remove(threading.get_ident())
            self._lock.notify_all()

    def _load(self, name: str) -> None:
        with self._used(name):
            pass

    def _opened(self, name: str) -> Graph:
        with graph_source(self._bundle, name, self._variants[name]) as source:
            graph = self._backend.load(source)
        self._check_inputs(name, graph)
        if name == "denoiser":
            self._check_vocabulary(graph)
        return graph

    def _origin(self, name: str) -> Origin:
        return self._bundle.origin(name, self._variants[name].source)

    def _checked(self, name: str, graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs of a graph, refused where they are not what the manifest lets one expect."""
        count = len(next(iter(inputs.values())))
        outputs = graph.run(inputs)
        for output, (shape, dtype) in self._outputs[name].items():
            found = outputs.get(output)
            if found is None or found.shape != (count, *shape) or found.dtype != dtype:
                told = "not at all" if found is None else f"{found.dtype} {list(found.shape)}"
                raise self._misfit(f"{name} puts out {output} {told}", f"means {np.dtype(dtype)} {[count, *shape]}")
        return outputs

    def _check_inputs(self, name: str, graph: Graph) -> None:
        """Refuse a graph whose inputs are not those that the manifest lets one expect."""
        wanted = {entry: shape for entry, (shape, _) in self._inputs[name].items()}
        for entry in (*wanted, *graph.inputs):
            if entry not in graph.inputs:
                raise self._misfit(f"{name} takes no {entry}", f"means it to take {', '.join(wanted)}")
            if entry not in wanted:
                raise self._misfit(f"{name} takes {entry}", f"means it to take {', '.join(wanted)} alone")
            own, meant = graph.inputs[entry], wanted[entry]
            if len(own) != len(meant) or any(size not in (None, other) for size, other in zip(own, meant, strict=True)):
                raise self._misfit(f"{name} takes {entry} {_shape(own)}", f"means {_shape(meant)}")

    def _check_vocabulary(self, denoiser: Graph) -> None:
        """Have the denoiser tell how many codes it knows: a `uniform` that nothing passes draws the last one."""
        inputs = {entry: np.ones((1, *shape), dtype) for entry, (shape, dtype) in self._inputs["denoiser"].items()}
        inputs |= {entry: np.zeros_like(inputs[entry]) for entry in ("codes", "label") if entry in inputs}
        inputs["uniform"] = np.full_like(inputs["uniform"], 2)
        known = int(self._checked("denoiser", denoiser, inputs)["proposal"].max()) + 1
        if known != self._bundle.manifest.vocabulary:
            raise self._misfit(f"denoiser knows {known} codes", self._has_vocabulary())

    def _has_vocabulary(self) -> str:
        return f"has a vocabulary of {self._bundle.manifest.vocabulary}"

    def _misfit(self, graph: str, manifest: str) -> BundleError:
        return BundleError(
            f"bundle {self._bundle.manifest.name!r}: its {graph}, where its manifest {manifest}: export it again"
        )


def _shape(behind_batch: Sequence[int | None]) -> str:
    return f"[{','.join(['N', *('?' if size is None else str(size) for size in behind_batch)])}]"


def _input_shapes(manifest: Manifest) -> _Shapes:
    positions = math.prod(manifest.latent_grid)
    codes: _Entries = {"codes": ((positions,), np.int32)}
    images: _Entries = {"images": ((*(manifest.image_size or ()), 3), np.uint8)}
    draws: _Entries = {
        "temperature": ((), np.float32),
        "uniform": ((positions,), np.float32),
        "update": ((positions,), np.bool_),
    }
    label: _Entries = {"label": ((), np.int32)} if manifest.labels is not None else {}
    guidance: _Entries = {"guidance": ((), np.float32)} if manifest.labels is not None else {}
    return {
        "denoiser": {**codes, **draws, **label, **guidance},
        "decoder": codes,
        "encoder": images,
        "logits": {**codes, **label},
    }


def _output_shapes(manifest: Manifest) -> _Shapes:
    positions = math.prod(manifest.latent_grid)
    codes = ((positions,), np.int32)
    return {
        "denoiser": {"new_codes": codes, "proposal": codes, "confidence": ((positions,), np.float32)},
        "decoder": {"images": ((*(manifest.image_size or ()), 3), np.uint8)},
        "encoder": {"codes": codes},
        "logits": {"logits": ((positions, manifest.vocabulary), np.float32)},
    }
