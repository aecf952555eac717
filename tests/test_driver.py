"""The driver of NVIDIA GPUs by ctypes, on a library that keeps its memory in Python."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from sundae_rt.backends import driver as driver_module
from sundae_rt.backends.driver import CudaDriver, Device, OutOfDeviceMemory, devices, load_library, version
from sundae_rt.errors import BackendError


class FakeLibcuda:
    """The functions of the driver's library that are used; `codes` makes some of them fail."""

    def __init__(self, gpus: int = 1, capacity: int = 1000, **codes: int) -> None:
        self.gpus, self.capacity, self.codes = gpus, capacity, codes
        self.memory: dict[int, bytearray] = {}
        self.current: Any = None

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            return self.codes.get(name) or getattr(self, f"_{name.removeprefix('cu')}")(*args) or 0

        if name.startswith("cu"):
            return call
        raise AttributeError(name)

    def _Init(self, flags: int) -> None:
        assert flags == 0

    def _DeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.gpus

    def _DeviceGet(self, handle: Any, index: int) -> None:
        handle._obj.value = index + 40

    def _DeviceGetName(self, name: Any, size: int, handle: Any) -> None:
        name.value = b"Fake %d" % handle.value

    def _DeviceGetAttribute(self, number: Any, attribute: int, handle: Any) -> None:
        number._obj.value = {75: 8, 76: 9}[attribute]

    def _DeviceTotalMem_v2(self, size: Any, handle: Any) -> None:
        size._obj.value = 2**34

    def _DriverGetVersion(self, number: Any) -> None:
        number._obj.value = 12090

    def _DevicePrimaryCtxRetain(self, context: Any, handle: Any) -> None:
        context._obj.value = 99

    def _CtxSetCurrent(self, context: Any) -> None:
        self.current = context.value

    def _StreamCreate(self, stream: Any, flags: int) -> None:
        assert self.current == 99 and flags == 1
        stream._obj.value = 5

    def _MemAlloc_v2(self, address: Any, size: Any) -> int:
        if sum(map(len, self.memory.values())) + size.value > self.capacity:
            return 2
        address._obj.value = 2**40 + len(self.memory)  # more than 32 bits
        self.memory[address._obj.value] = bytearray(size.value)
        return 0

    def _MemFree_v2(self, address: Any) -> None:
        del self.memory[address.value]

    def _MemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = 123_000_000, 2**34

    def _MemcpyHtoDAsync_v2(self, address: Any, source: Any, size: Any, stream: Any) -> None:
        assert stream.value == 5
        self.memory[address.value][: size.value] = ctypes.string_at(source.value, size.value)

    def _MemcpyDtoHAsync_v2(self, target: Any, address: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(target.value, bytes(self.memory[address.value]), size.value)

    def _MemcpyDtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        assert stream.value == 5
        self.memory[target.value][: size.value] = self.memory[source.value][: size.value]

    def _StreamSynchronize(self, stream: Any) -> None:
        assert stream.value == 5

    def _GetErrorString(self, code: int, text: Any) -> int:
        if code == 777:
            return 1
        text._obj.value = b"went wrong"
        return 0


def test_what_goes_up_comes_down() -> None:
    library = FakeLibcuda()
    driver = CudaDriver(library)
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    address, other = driver.allocate(array.nbytes), driver.allocate(array.nbytes)
    driver.upload(array, address)
    driver.copy(address, other, array.nbytes)
    back = np.empty_like(array)
    driver.download(other, back)
    driver.synchronize()
    assert np.array_equal(back, array)
    driver.free(address)
    driver.free(other)
    assert not library.memory


def test_gpus_are_told_by_name_capability_and_memory() -> None:
    assert devices(FakeLibcuda(gpus=2)) == [Device("Fake 40", "8.9", 2**34), Device("Fake 41", "8.9", 2**34)]
    assert str(devices(FakeLibcuda())[0]) == "Fake 40 (compute capability 8.9, 16 GB)"


def test_the_driver_tells_the_newest_cuda_that_it_runs() -> None:
    assert version(FakeLibcuda()) == "12.9"


def test_memory_in_use_is_all_that_is_not_free() -> None:
    assert CudaDriver(FakeLibcuda()).memory_in_use() == 2**34 - 123_000_000


def test_no_room_is_told_apart_and_says_how_much_is_free() -> None:
    with pytest.raises(OutOfDeviceMemory, match=r"^Fake 40 has no room for 5 MB more \(123 MB are free\)$"):
        CudaDriver(FakeLibcuda()).allocate(5_000_000)


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        ({"cuDevicePrimaryCtxRetain": 46}, r"Fake 40 does not start: went wrong \(CUDA error 46\)"),
        ({"cuStreamCreate": 777}, r"Fake 40 gives no stream: unknown error \(CUDA error 777\)"),
        ({"cuDeviceGetCount": 3}, r"cannot count the GPUs: went wrong \(CUDA error 3\)"),
    ],
)
def test_a_gpu_that_does_not_start_is_one_line(codes: dict[str, int], complaint: str) -> None:
    with pytest.raises(BackendError, match=rf"^{complaint}$"):
        CudaDriver(FakeLibcuda(**codes))


def test_work_that_fails_is_one_line() -> None:
    library = FakeLibcuda()
    driver = CudaDriver(library)
    library.codes["cuStreamSynchronize"] = 700
    with pytest.raises(BackendError, match=r"^Fake 40 failed at its work: went wrong \(CUDA error 700\)$"):
        driver.synchronize()


@pytest.mark.parametrize(
    ("library", "complaint"),
    [
        (FakeLibcuda(cuInit=100), r"the NVIDIA driver sees no GPU \(CUDA_VISIBLE_DEVICES is '7'\)"),
        (FakeLibcuda(cuInit=803), r"the NVIDIA driver does not start: went wrong \(CUDA error 803\)"),
    ],
)
def test_a_driver_that_does_not_start_is_one_line(
    library: FakeLibcuda, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(BackendError, match=rf"^{complaint}$"):
        load_library()


def test_a_machine_without_the_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_LIBRARY", "libnosuchdriver.so.1")
    with pytest.raises(BackendError, match=r"^this machine has no NVIDIA driver \(libnosuchdriver\.so\.1 is not"):
        load_library()


def test_no_gpu_among_the_visible_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(BackendError, match=r"^the NVIDIA driver sees no GPU$"):
        CudaDriver(FakeLibcuda(gpus=0))
