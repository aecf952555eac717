"""A runtime for step-unrolled denoising autoencoders (SUNDAE) over VQ-GAN codes.

>>> import sundae_rt
>>> with sundae_rt.load("earth") as runtime:
...     samples = runtime.generate(n=4, steps=20, seed=0)
>>> samples[0].image.save("first.png")
"""

from typing import TYPE_CHECKING, Any

from sundae_rt.errors import BackendError, BundleError, InputError, QueueFullError, SundaeError

if TYPE_CHECKING:
    from sundae_rt.runtime import Runtime, Sample, load

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BundleError",
    "InputError",
    "QueueFullError",
    "Runtime",
    "Sample",
    "SundaeError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import what needs NumPy and Pillow when it is first asked for."""
    if name in {"Runtime", "Sample", "load"}:
        from sundae_rt import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
