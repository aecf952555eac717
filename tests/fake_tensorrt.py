"""TensorRT and a GPU without either: engines that double their input, in a memory made of bytearrays."""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from sundae_rt.backends.driver import Device, OutOfDeviceMemory
from sundae_rt.tensorrt.opening import Library

DEVICE = Device("Fake GPU", "8.9", 24 * 2**30)
PROFILES = [[1, 1, 1], [1, 8, 8]]


def engine_bytes(**changes: Any) -> bytes:
    """The engine of y = 2 * x on int32 [B,3], plus 10 in the rows whose guidance is not 1, if it has guidance."""
    spec = {
        "inputs": {"x": ["INT32", [-1, 3]]},
        "outputs": {"y": ["INT32", [-1, 3]]},
        "profiles": PROFILES,
        "work": 100,
    }
    return json.dumps(spec | changes).encode()


class FakeDriver:
    """See `sundae_rt.backends.driver.Driver`. `capacity` is the bytes that it has."""

    def __init__(self, capacity: int = 10**6, device: Device = DEVICE) -> None:
        self.device, self.stream, self.capacity = device, 7, capacity
        self.memory: dict[int, bytearray] = {}
        self._next = 256

    def allocate(self, size: int) -> int:
        assert size > 0
        if sum(map(len, self.memory.values())) + size > self.capacity:
            raise OutOfDeviceMemory(f"Fake GPU has no room for {size} bytes more")
        self._next += 256
        self.memory[self._next] = bytearray(size)
        return self._next

    def free(self, address: int) -> None:
        del self.memory[address]

    def upload(self, array: np.ndarray, address: int) -> None:
        assert array.flags.c_contiguous
        self.memory[address][: array.nbytes] = array.tobytes()

    def download(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(array.ctypes.data, bytes(self.memory[address]), array.nbytes)

    def synchronize(self) -> None:
        pass

    def attach(self) -> None:
        pass


def fake_library(driver: FakeDriver, name: str = "tensorrt_rtx", **changes: Any) -> Library:
    """A library whose engines run in `driver`'s memory; `changes` are attributes of its module."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    class ComputeCapability(Enum):
        SM75, SM80, SM89, SM120 = 75, 80, 89, 120

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            try:
                return FakeEngine(json.loads(data), driver, self.logger)
            except ValueError:
                self.logger.log("warning", "not this one")
                self.logger.log("error", "deserialize: Error Code 1\n (bad magic. In parse at /_src/a/b.cpp:78)")
                return None

    module = SimpleNamespace(
        ILogger=ILogger,
        ComputeCapability=ComputeCapability,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
    )
    for key, value in changes.items():
        setattr(module, key, value)
    return Library(name, "1.0", module)


class FakeEngine:
    """What of `ICudaEngine` the wrapper uses."""

    def __init__(self, spec: dict[str, Any], driver: FakeDriver, logger: Any) -> None:
        self.spec, self.driver, self.logger = spec, driver, logger
        self.tensors = {**spec["inputs"], **spec["outputs"]}
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), len(spec["profiles"])
        self.contexts: list[FakeContext] = []

    def get_tensor_name(self, index: int) -> str:
        return [*self.tensors][index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.spec["inputs"] else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return f"DataType.{self.tensors[name][0]}"

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return [[rows, *self.tensors[name][1][1:]] for rows in self.spec["profiles"][index]]

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "ours"
        if self.spec.get("starts", True) is not True:
            self.logger.log("error", self.spec["starts"])
            return None
        return FakeContext(self)


class FakeContext:
    """What of `IExecutionContext` the wrapper uses. Each row needs `work` bytes of working memory."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.working = (0, 0)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = self.engine.spec["profiles"][index]
        return stream == 7

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name == "guided":
            return shape[1] <= self.profile[2]
        self.shapes[name] = shape
        return self.profile[0] <= shape[0] <= self.profile[2]

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.spec["inputs"] if name not in (*self.shapes, "guided")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name, self.shapes["x"])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def update_device_memory_size_for_shapes(self) -> int:
        return self.shapes["x"][0] * self.engine.spec["work"]

    def set_device_memory(self, address: int, size: int) -> None:
        self.working = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        memory, shape = self.engine.driver.memory, self.shapes["x"]
        address, size = self.working
        assert len(memory[address]) == size >= self.update_device_memory_size_for_shapes()
        if self.engine.spec.get("fails"):
            self.engine.logger.log("error", "a kernel failed")
            return False
        x = np.frombuffer(memory[self.addresses["x"]], np.int32, int(np.prod(shape))).reshape(shape)
        y = 2 * x
        if "guided" in self.addresses:
            guidance = np.frombuffer(memory[self.addresses["guidance"]], np.float32, shape[0])
            count = int((guidance != 1).sum())
            y[np.frombuffer(memory[self.addresses["guided"]], np.int64, count)] += 10
        memory[self.addresses["y"]][: y.nbytes] = y.astype(np.int32).tobytes()
        return True
