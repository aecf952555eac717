"""TensorRT: the backend `tensorrt`, on the first visible NVIDIA GPU."""

import hashlib
import logging
from collections.abc import Mapping
from types import MappingProxyType

from sundae_rt.backends.driver import CudaDriver, Driver
from sundae_rt.backends.origin import Origin
from sundae_rt.backends.source import GraphSource
from sundae_rt.errors import BackendError
from sundae_rt.tensorrt.building import PORTABLE, capabilities
from sundae_rt.tensorrt.engine import Engine, UnusableEngine
from sundae_rt.tensorrt.obtain import Obtained, kept, obtain
from sundae_rt.tensorrt.opening import Library, open_library

_log = logging.getLogger("sundae_rt")


class TensorRTBackend:
    """TensorRT on a GPU. See `sundae_rt.backends.Backend`.

    An engine that `sundae-rt build` made is loaded; where there is none for exactly this graph, library and GPU, it is
    built first, which takes minutes and is said in the log. `auto` does not let it come to that: see `is_built`.

    Raises:
        BackendError: the library does not serve the GPU.
    """

    name: str = "tensorrt"
    variants: tuple[str, ...] = ("fp16", "bf16", "fp32")
    provides: frozenset[str] = frozenset({"tensorrt", "half"})
    derives: Mapping[str, str] = MappingProxyType({})
    unrolls: bool = True

    def __init__(self, library: Library, driver: Driver) -> None:
        self._library, self._driver = library, driver
        device = driver.device
        if not library.builds_anywhere:
            self._capabilities = [device.capability]
        elif device.capability not in capabilities(library):
            raise BackendError(
                f"tensorrt: {library.name} {library.version} does not serve {device}: pip install 'sundae-rt[tensorrt]'"
            )
        else:
            self._capabilities = [device.capability, *([] if device.capability == "7.5" else [PORTABLE])]

    @classmethod
    def open(cls) -> "TensorRTBackend":
        """TensorRT and the first visible GPU.

        Raises:
            BackendError: the library, the driver or the GPU is missing, or they do not go together; one line.
        """
        try:
            driver = CudaDriver()
        except BackendError as error:
            raise BackendError(f"tensorrt: {error}") from error
        try:
            return cls(open_library(), driver)
        except BackendError as error:
            raise BackendError(f"tensorrt: {str(error).removeprefix('tensorrt: ')}") from error

    def load(self, source: GraphSource) -> Engine:
        """See `Backend.load`; nothing is derived here."""
        obtained = self._obtained(source)
        try:
            return self._loaded(source, obtained)
        except UnusableEngine as error:
            if obtained.seconds is not None:  # another build would make the same
                raise
            obtained = self._obtained(source, why=str(error))
        return self._loaded(source, obtained)

    def is_built(self, origin: Origin) -> bool:
        """See `Backend.is_built`."""
        return kept(self._library, origin, self._capabilities)[0] is not None

    def _obtained(self, source: GraphSource, why: str = "") -> Obtained:
        """A graph's engine, as `obtain`; it runs this once where it cannot be kept."""
        graph, _, variant = source.name.partition(" ")
        sha256 = hashlib.sha256(source.model).hexdigest()
        origin = source.origin or Origin(graph, variant.strip("()"), sha256, ())
        obtained = obtain(self._library, source.model, origin, self._capabilities, folder=source.folder, why=why)
        if obtained.fault:
            _log.warning("the engine of %s is not kept: %s", origin, obtained.fault)
        return obtained

    def _loaded(self, source: GraphSource, obtained: Obtained) -> Engine:
        return Engine(self._library, self._driver, obtained.data, f"tensorrt: {source.name}")
