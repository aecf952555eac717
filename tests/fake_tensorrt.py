"""TensorRT and a GPU without either: engines of models in NumPy, in a memory made of bytearrays."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from fakes import GRID, FakeBackend, settle, wander
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
        "model": "doubled",
    }
    return json.dumps(spec | changes).encode()


def denoiser_bytes(labels: bool = False, **changes: Any) -> bytes:
    """The engine of the denoiser of `fakes`, for bundles with labels or without."""
    positions = GRID[0] * GRID[1]
    codes = ["INT32", [-1, positions]]
    inputs = {"codes": codes, "temperature": ["FLOAT", [-1]], "uniform": ["FLOAT", [-1, positions]]}
    inputs["update"] = ["BOOL", [-1, positions]]
    if labels:
        inputs |= {"label": ["INT32", [-1]], "guidance": ["FLOAT", [-1]], "guided": ["INT64", [1, -1]]}
    outputs = {"new_codes": codes, "proposal": codes, "confidence": ["FLOAT", [-1, positions]]}
    return engine_bytes(**{"inputs": inputs, "outputs": outputs, "model": "wandering", **changes})


class FakeDriver:
    """See `sundae_rt.backends.driver.Driver`. `capacity` is the bytes that it has.

    Attributes:
        calls: the names of the methods that work in the stream, and "execute", in order.
        before_execute: called before each of these.
    """

    def __init__(self, capacity: int = 10**6, device: Device = DEVICE) -> None:
        self.device, self.stream, self.capacity = device, 7, capacity
        self.memory: dict[int, bytearray] = {}
        self.calls: list[str] = []
        self.before_execute: Callable[[], None] = lambda: None
        self._next = 256

    def at(self, address: int, size: int) -> memoryview:
        """The `size` bytes at an address, which must lie within what was allocated at once."""
        start = max(base for base in self.memory if base <= address)
        assert address - start + size <= len(self.memory[start])
        return memoryview(self.memory[start])[address - start : address - start + size]

    def allocate(self, size: int) -> int:
        assert size > 0
        if sum(map(len, self.memory.values())) + size > self.capacity:
            raise OutOfDeviceMemory(f"Fake GPU has no room for {size} bytes more")
        address = self._next
        self._next += -(-size // 256) * 256
        self.memory[address] = bytearray(size)
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def upload(self, array: np.ndarray, address: int) -> None:
        assert array.flags.c_contiguous
        self.calls.append("upload")
        self.at(address, array.nbytes)[:] = array.tobytes()

    def download(self, address: int, array: np.ndarray) -> None:
        self.calls.append("download")
        ctypes.memmove(array.ctypes.data, bytes(self.at(address, array.nbytes)), array.nbytes)

    def copy(self, source: int, target: int, size: int) -> None:
        self.calls.append("copy")
        self.at(target, size)[:] = bytes(self.at(source, size))

    def synchronize(self) -> None:
        self.calls.append("synchronize")

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
        self.settings: Any = None

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

    def create_runtime_config(self) -> Any:
        self.settings = FakeSettings()
        return self.settings

    def create_execution_context(self, strategy: Any) -> Any:
        assert strategy == "ours" or strategy is self.settings
        if self.spec.get("starts", True) is not True:
            self.logger.log("error", self.spec["starts"])
            return None
        return FakeContext(self)


class FakeSettings:
    """What of `IRuntimeConfig` the wrapper uses."""

    memory: Any = None
    cuda_graph_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.memory = strategy


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
        return self.shapes.get(name, next(iter(self.shapes.values())))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def update_device_memory_size_for_shapes(self) -> int:
        return next(iter(self.shapes.values()))[0] * self.engine.spec["work"]

    def set_device_memory(self, address: int, size: int) -> None:
        self.working = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        driver, spec = self.engine.driver, self.engine.spec
        driver.before_execute()
        driver.calls.append("execute")
        address, size = self.working
        assert len(driver.memory[address]) == size >= self.update_device_memory_size_for_shapes()
        if spec.get("fails") in (True, driver.calls.count("execute")):
            self.engine.logger.log("error", "a kernel failed")
            return False
        inputs = {name: self.tensor(name, self.shapes[name]) for name in self.shapes}
        if "guided" in self.addresses:
            count = int((inputs["guidance"] != 1).sum())
            inputs["guided"] = self.tensor("guided", (1, count))
        for name, values in MODELS[spec["model"]](inputs).items():
            self.tensor(name, values.shape)[...] = values
        return True

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor where it lies in the GPU's memory."""
        assert self.addresses[name] % 256 == 0
        dtype = TYPES[self.engine.tensors[name][0]]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.engine.driver.at(self.addresses[name], size), dtype).reshape(shape)


def doubled(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """y = 2 * x, plus 10 in the guided rows."""
    y = 2 * inputs["x"]
    if "guided" in inputs:
        y[inputs["guided"]] += 10
    return {"y": y}


def wandering(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the denoiser of `fakes.FakeBackend` puts out."""
    return FakeBackend(wander).run("denoiser", inputs)


def settling(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with the proposal that is always the same."""
    return FakeBackend(settle).run("denoiser", inputs)


MODELS = {"doubled": doubled, "wandering": wandering, "settling": settling}
TYPES = {"INT32": np.int32, "INT64": np.int64, "FLOAT": np.float32, "BOOL": np.bool_}
