"""`sundae-rt build`: TensorRT engines from a bundle's graphs, on the machine that serves them."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import click

from sundae_rt.cli.interrupts import held_back
from sundae_rt.engines import DEFAULT

if TYPE_CHECKING:
    from sundae_rt.bundle import Bundle
    from sundae_rt.choice import Variant
    from sundae_rt.manifest import Manifest
    from sundae_rt.tensorrt.opening import Library


@click.command("build", short_help="Build a bundle's TensorRT engines.")
@click.option("--bundle", default=DEFAULT, metavar="NAME|PATH", show_default=True, help="Bundle to build engines for.")
@click.option(
    "--precision", default="auto", metavar="NAME", help="Variant to build: fp16, ...  [the best in the bundle]"
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    metavar="A:B",
    help="Batch sizes to build for: N, A:B, or A:LIKELY:B; may be given several times.  [1 and 1:64]",
)
@click.option(
    "--compute-capability",
    "capability",
    metavar="X.Y",
    help="GPUs to build for, such as 8.9, or portable.  [portable; with the full TensorRT this machine's]",
)
@click.option("--force", is_flag=True, help="Build anew what is there.")
def command(bundle: str, precision: str, batches: tuple[str, ...], capability: str | None, force: bool) -> None:
    """Build a TensorRT engine for each graph of a bundle. Needs TensorRT, and no PyTorch.

    TensorRT for RTX builds without a GPU. Engines are kept in the folder `engines` inside the bundle, or in the user's
    cache where that cannot be written; one that is there for exactly this graph and library is not built again.
    """
    with held_back():
        from sundae_rt import engines
        from sundae_rt.bundle import Bundle

    build_engines(Bundle.open(engines.resolve(bundle)), precision, batches, capability, force)


def build_engines(
    bundle: "Bundle",
    precision: str = "auto",
    batches: tuple[str, ...] = (),
    capability: str | None = None,
    force: bool = False,
) -> None:
    """Build what `command` says, and say so, a line for each graph on stdout.

    Raises:
        BundleError: the bundle is damaged, has weights that its manifest does not name, or has no such precision.
        BackendError: TensorRT is missing, does not build for that GPU, or does not take a graph.
        InputError: batch sizes out of order; or an engine cannot be kept, and no further one is built.
    """
    with held_back():
        from sundae_rt.errors import InputError
        from sundae_rt.graphs import graph_source
        from sundae_rt.tensorrt.obtain import obtain
        from sundae_rt.tensorrt.opening import open_library
        from sundae_rt.tensorrt.profiles import parse_all

        profiles = parse_all(batches)
        variants = _variants(bundle.manifest, precision)
        library = open_library()
    capability = _capability(library, capability)
    for graph, variant in variants.items():
        origin = bundle.origin(graph, variant.source)
        with graph_source(bundle, graph, variant) as source, _Line(str(origin)) as line:
            obtained = obtain(
                library,
                source.model,
                origin,
                (capability,),
                profiles,
                folder=source.folder,
                why="asked for with --force" if force else "",
                say=line.say,
                progress=line.draw,
            )
        built = "" if obtained.seconds is None else f"built in {obtained.seconds:.0f} s"
        if obtained.fault:
            raise InputError(
                f"the engine of {origin} was {built} but is not kept ({obtained.fault}): "
                "build again once it can be written"
            )
        size = f"{len(obtained.data) / 1e6:.1f} MB for {capability}, batches of {', '.join(map(str, profiles))}"
        click.echo(f"{origin}: {size}, {f'{built}, {obtained.path}' if built else 'is there'}")


def _variants(manifest: "Manifest", precision: str) -> "dict[str, Variant]":
    """The variant to build of each graph."""
    from sundae_rt.backends import Backend
    from sundae_rt.backends.tensorrt import TensorRTBackend
    from sundae_rt.choice import choose_variant
    from sundae_rt.errors import BundleError

    held = {variant for variants in manifest.graphs.values() for variant in variants}
    if precision not in ("auto", *held):
        raise BundleError(
            f"bundle {manifest.name!r} has no variant {precision!r} (it has {', '.join(sorted(held))}): "
            f"export it again with --variants fp32,{precision}"
        )
    backend = cast(Backend, TensorRTBackend)
    return {graph: choose_variant(manifest, graph, backend, precision) for graph in manifest.graphs}


def _capability(library: "Library", wanted: str | None) -> str:
    """The compute capability to build for, checked before the first build."""
    from sundae_rt.backends.driver import CudaDriver
    from sundae_rt.errors import BackendError
    from sundae_rt.tensorrt.building import PORTABLE, check_capability

    if library.builds_anywhere:
        check_capability(library, wanted or PORTABLE)
        return wanted or PORTABLE
    try:
        device = CudaDriver().device
    except BackendError as error:
        raise BackendError(
            f"{library.name} builds on the GPU that will run the engine, and {error}; "
            "pip install 'sundae-rt[tensorrt-rtx]' builds without one"
        ) from error
    if wanted not in (None, device.capability):
        raise BackendError(f"{library.name} builds for this machine's GPU alone, {device}, not for {wanted}")
    return device.capability


class _Line:
    """A line on stderr that redraws itself on a terminal while an engine is built."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._start = time.monotonic()
        self._drawn = False

    def say(self, text: str) -> None:
        """A line that stays."""
        click.echo(f"sundae-rt: {text}", err=True)

    def draw(self, share: float) -> None:
        """Show how much is done."""
        if self._is_terminal:
            self._drawn = True
            seconds = time.monotonic() - self._start
            click.echo(f"\r{self._name}: {share:4.0%}, {seconds:.0f} s\x1b[K", nl=False, err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            click.echo("\r\x1b[K", nl=False, err=True)
