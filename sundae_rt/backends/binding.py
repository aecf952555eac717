"""A graph in ONNX Runtime several times in a row, with what it hands on to itself kept on the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unroll(
    library: Any,
    session: Any,
    device: str,
    inputs: Mapping[str, NDArray[Any]],
    each: Mapping[str, NDArray[Any]],
    carry: tuple[str, str],
    keep: str,
) -> NDArray[Any]:
    """Run a session as `UnrollingGraph.unroll` says.

    All inputs go up before the first run, and what is wanted comes down after the last. Between runs no array crosses:
    the host only waits for one to end and names the next one's places on the device.

    Args:
        library: ONNX Runtime.
        session: the graph.
        device: what it runs on, by ONNX Runtime's name: "cuda", or "cpu".
        inputs, each, carry, keep: as there.

    Raises:
        Exception: whatever ONNX Runtime raises.
    """
    source, target = carry
    first = inputs[source]
    count = len(next(iter(each.values())))
    value = library.OrtValue
    same = {name: _on(value, array, device) for name, array in inputs.items() if name != source}
    varying = {name: _on(value, array, device) for name, array in each.items()}
    # In turn read and written: the codes that came in, and those that go out. On a CPU the value is the array itself.
    turns = [_on(value, first.copy(), device), value.ortvalue_from_shape_and_type(first.shape, first.dtype, device, 0)]
    kept = value.ortvalue_from_shape_and_type((count, *first.shape), first.dtype, device, 0)
    for run in range(count):
        binding = session.io_binding()
        for name, held in same.items():
            binding.bind_ortvalue_input(name, held)
        for name, array in each.items():
            place = varying[name].data_ptr() + run * array[0].nbytes
            binding.bind_input(name, device, 0, array.dtype, array.shape[1:], place)
        binding.bind_ortvalue_input(source, turns[run % 2])
        binding.bind_ortvalue_output(target, turns[(run + 1) % 2])
        binding.bind_output(keep, device, 0, first.dtype, first.shape, kept.data_ptr() + run * first.nbytes)
        session.run_with_iobinding(binding)
    wanted: NDArray[Any] = kept.numpy()
    return wanted


def _on(value: Any, array: NDArray[Any], device: str) -> Any:
    return value.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
