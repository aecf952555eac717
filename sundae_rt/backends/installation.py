"""What is wrong with an installed ONNX Runtime: its packages write into one folder, and pip does not notice."""

from importlib import metadata
from typing import Any, Final

# Packages that all hold `onnxruntime/`, each with other providers in it.
_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

SWAP: Final = "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
"""Puts the one for NVIDIA GPUs in the place of the one that comes with this package; pip does not by itself."""

_EITHER: Final = "pip install onnxruntime, or onnxruntime-gpu for an NVIDIA GPU"


def installed() -> list[str]:
    """The ONNX Runtime packages that are installed, by their names in the index."""
    found = []
    for package in _PACKAGES:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        found.append(package)
    return found


def fault() -> str | None:
    """What is wrong with the packages, in one line with the remedy; None where exactly one is there, and whole."""
    packages = installed()
    if len(packages) > 1:
        return (
            f"{' and '.join(packages)} are both installed and overwrite one another: "
            f"pip uninstall -y {' '.join(packages)}, then {_EITHER}"
        )
    if not packages:
        return f"ONNX Runtime is not installed: {_EITHER}"
    if not is_whole(_imported()):
        return (
            f"{packages[0]} is installed but its files are gone, as when another ONNX Runtime is uninstalled: "
            f"pip install --force-reinstall --no-deps {packages[0]}"
        )
    return None


def version_and_providers() -> str | None:
    """What is installed, as "1.32.0 with CUDA, CPU"; None where nothing can be imported."""
    library = _imported()
    if not is_whole(library):
        return None
    providers = (name.removesuffix("ExecutionProvider") for name in library.get_available_providers())
    return f"{library.__version__} with {', '.join(providers)}"


def is_whole(library: Any) -> bool:
    """Whether an imported `onnxruntime` is more than an empty folder, which Python imports too."""
    return hasattr(library, "InferenceSession")


def _imported() -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime
