"""TensorRT by either of its names, and the errors that it reports to a logger instead of raising them."""

import re
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from sundae_rt.errors import BackendError, one_line

INSTALL: Final = "pip install 'sundae-rt[tensorrt-rtx]', or 'sundae-rt[tensorrt]' for a GPU that it does not serve"

_PLACE = re.compile(r"\s*\(?In [\w:~]+ at \S+?:\d+\b")  # where in NVIDIA's source an error was raised


@dataclass(slots=True, eq=False)
class Library:
    """An imported TensorRT.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx".
        version: its version.
        module: the Python module.
        lock: held while it builds or deserialises, so that what the log holds belongs to whoever asks.
    """

    name: str
    version: str
    module: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    _errors: list[str] = field(default_factory=list)
    _logger: Any = None

    @property
    def builds_anywhere(self) -> bool:
        """Whether engines are built without a GPU, and may be portable."""
        return self.name == "tensorrt_rtx"

    @property
    def logger(self) -> Any:
        """A logger for its objects, which keeps errors for `failure` and drops the rest."""
        if self._logger is None:
            self._logger = _collector(self.module, self._errors)
        return self._logger

    def forget(self) -> None:
        """Drop the errors so far."""
        self._errors.clear()

    def failure(self) -> str:
        """The first error since `forget`, on one line."""
        return self._errors[0] if self._errors else "no reason given"


def open_library() -> Library:
    """Import `tensorrt`, or where that is absent `tensorrt_rtx`.

    Raises:
        BackendError: neither can be imported; says why, and how to install one.
    """
    reasons = []
    for load in (_tensorrt, _tensorrt_rtx):
        name = load.__name__.removeprefix("_")
        try:
            module = load()
            return Library(name, str(module.__version__), module)
        except ImportError as error:
            reasons.append(f"{name}: {one_line(error)}")
        except Exception as error:  # a package whose libraries are missing or do not fit: OSError, RuntimeError, ...
            reasons.append(f"{name} is installed but does not load: {one_line(error)}")
    raise BackendError(f"TensorRT cannot be imported ({'; '.join(reasons)}): {INSTALL}")


def _tensorrt() -> Any:
    import tensorrt

    tensorrt.Builder  # noqa: B018  what remains of an uninstalled package is an empty namespace, which imports
    return tensorrt


def _tensorrt_rtx() -> Any:
    import tensorrt_rtx

    tensorrt_rtx.Builder  # noqa: B018  as above
    return tensorrt_rtx


def _collector(module: Any, errors: list[str]) -> Any:
    grave = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in grave:
                errors.append(_PLACE.sub("", " ".join(message.split())))

    return Collector()
