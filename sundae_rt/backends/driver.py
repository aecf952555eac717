"""The little of CUDA that running an engine takes, by ctypes from the driver's own library: nothing to be installed."""

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from sundae_rt.errors import BackendError

_LIBRARY: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_OUT_OF_MEMORY, _NO_DEVICE = 2, 100  # of CUresult
_MAJOR, _MINOR = 75, 76  # of CUdevice_attribute
_NON_BLOCKING = 1  # a stream that does not wait for others


class OutOfDeviceMemory(BackendError):
    """The GPU has no room for what was asked."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        name: as its maker calls it.
        capability: its compute capability, such as "8.9".
        memory: bytes.
    """

    name: str
    capability: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability}, {self.memory / 2**30:.0f} GB)"


class Driver(Protocol):
    """A GPU's memory and one stream of work on it; addresses are plain numbers. Used by one thread at a time.

    Every method raises `BackendError` if the driver fails.
    """

    device: Device
    stream: int

    def allocate(self, size: int) -> int:
        """Room for `size` bytes, 1 or more; `OutOfDeviceMemory` where there is none."""
        ...

    def free(self, address: int) -> None:
        """Give room back."""
        ...

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Copy a contiguous array to the GPU, in the stream; it must stay until `synchronize`."""
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Copy from the GPU into a contiguous array, in the stream; it is there after `synchronize`."""
        ...

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy `size` bytes from one place on the GPU to another, in the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        ...

    def attach(self) -> None:
        """Make the GPU the calling thread's own, as the driver wants it before a thread uses it."""
        ...


def load_library() -> Any:
    """The driver's library, started.

    Raises:
        BackendError: there is no driver, or it does not start.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise BackendError(
            f"this machine has no NVIDIA driver ({_LIBRARY} is not found): install the driver of its NVIDIA GPU"
        ) from error
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        raise BackendError(f"the NVIDIA driver sees no GPU{_visible()}")
    _check(library, code, "the NVIDIA driver does not start")
    return library


def devices(library: Any = None) -> list[Device]:
    """The GPUs that the driver sees.

    Raises:
        BackendError: there is no driver, or it does not start.
    """
    library = load_library() if library is None else library
    count = ctypes.c_int()
    _check(library, library.cuDeviceGetCount(ctypes.byref(count)), "cannot count the GPUs")
    return [_device(library, _handle(library, index)) for index in range(count.value)]


def seen() -> list[str]:
    """The GPUs and the CUDA that their driver runs, each a text; nothing where there is no driver or no GPU."""
    try:
        library = load_library()
        return [*map(str, devices(library)), f"CUDA {version(library)}"]
    except BackendError:
        return []


def version(library: Any) -> str:
    """The newest CUDA that the driver runs, as "13.0".

    Raises:
        BackendError: it does not say.
    """
    number = ctypes.c_int()
    _check(library, library.cuDriverGetVersion(ctypes.byref(number)), "cannot ask the NVIDIA driver's version")
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


class CudaDriver:
    """The first visible GPU. See `Driver`.

    Raises:
        BackendError: there is no driver, no GPU, or it does not start.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library = load_library() if library is None else library
        if not devices(library):
            raise BackendError(f"the NVIDIA driver sees no GPU{_visible()}")
        handle = _handle(library, 0)
        self.device = _device(library, handle)
        self._context = ctypes.c_void_p()
        # The context that all libraries in this process share, TensorRT among them.
        code = library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), handle)
        self._check(code, "does not start")
        self.attach()
        stream = ctypes.c_void_p()
        self._check(library.cuStreamCreate(ctypes.byref(stream), _NON_BLOCKING), "gives no stream")
        self.stream = stream.value or 0

    def attach(self) -> None:
        """See `Driver.attach`."""
        self._check(self._library.cuCtxSetCurrent(self._context), "is lost")

    def allocate(self, size: int) -> int:
        """See `Driver.allocate`."""
        address = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        if code == _OUT_OF_MEMORY:
            raise OutOfDeviceMemory(
                f"{self.device.name} has no room for {size / 1e6:.0f} MB more ({self._free() / 1e6:.0f} MB are free)"
            )
        self._check(code, "gives no memory")
        return address.value

    def free(self, address: int) -> None:
        """See `Driver.free`."""
        self._check(self._library.cuMemFree_v2(ctypes.c_uint64(address)), "takes no memory back")

    def upload(self, array: NDArray[Any], address: int) -> None:
        """See `Driver.upload`."""
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        code = self._library.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(address), source, size, ctypes.c_void_p(self.stream))
        self._check(code, "takes no data")

    def download(self, address: int, array: NDArray[Any]) -> None:
        """See `Driver.download`."""
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        code = self._library.cuMemcpyDtoHAsync_v2(target, ctypes.c_uint64(address), size, ctypes.c_void_p(self.stream))
        self._check(code, "gives no data")

    def copy(self, source: int, target: int, size: int) -> None:
        """See `Driver.copy`."""
        places = ctypes.c_uint64(target), ctypes.c_uint64(source)
        code = self._library.cuMemcpyDtoDAsync_v2(*places, ctypes.c_size_t(size), ctypes.c_void_p(self.stream))
        self._check(code, "moves no data")

    def synchronize(self) -> None:
        """See `Driver.synchronize`."""
        self._check(self._library.cuStreamSynchronize(ctypes.c_void_p(self.stream)), "failed at its work")

    def memory_in_use(self) -> int:
        """How many bytes of the GPU's memory are taken, by whomever."""
        return self.device.memory - self._free()

    def _free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _check(self, code: int, complaint: str) -> None:
        _check(self._library, code, f"{self.device.name} {complaint}")


def _handle(library: Any, index: int) -> ctypes.c_int:
    handle = ctypes.c_int()
    _check(library, library.cuDeviceGet(ctypes.byref(handle), index), f"cannot open GPU {index}")
    return handle


def _device(library: Any, handle: ctypes.c_int) -> Device:
    name = ctypes.create_string_buffer(256)
    _check(library, library.cuDeviceGetName(name, len(name), handle), "cannot ask a GPU's name")
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        code = library.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        _check(library, code, "cannot ask a GPU's compute capability")
        numbers.append(number.value)
    memory = ctypes.c_size_t()
    _check(library, library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle), "cannot ask a GPU's memory")
    return Device(name.value.decode(errors="replace"), f"{numbers[0]}.{numbers[1]}", memory.value)


def _check(library: Any, code: int, complaint: str) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    reason = text.value.decode(errors="replace") if text.value else "unknown error"
    raise BackendError(f"{complaint}: {reason} (CUDA error {code})")


def _visible() -> str:
    """What hides GPUs, if anything."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
