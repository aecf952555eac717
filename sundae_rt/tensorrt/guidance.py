"""The one edit that a graph needs before TensorRT takes it: which rows are guided comes in instead of being found.

A denoiser with guidance runs the rows whose guidance is not 1 twice. It finds them with NonZero, whose output has a
size that depends on values: TensorRT for RTX has no such operator, and a GPU would have to wait for the host. The host
knows the guidance anyway, so in the edited graph NonZero's output is an input, `GUIDED`, and shapes follow from shapes.

The edit works on the bytes of the protobuf: a graph of gigabytes is copied once, and no onnx is needed.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import BackendError

GUIDED: Final = "guided"
"""int64 [1, G]: the indices of the G rows whose guidance is not 1, in rising order."""

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INPUT = 7, 1, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR = 1, 2, 4
_INT64 = 7


def guided_rows(guidance: NDArray[Any]) -> NDArray[np.int64]:
    """What `GUIDED` is for a batch whose `guidance` is f32 [B]."""
    return np.flatnonzero(guidance != 1).astype(np.int64)[None]


def take_guided_rows(model: bytes) -> bytes:
    """The bytes of an ONNX graph with NonZero's output as the input `GUIDED`; those that came in where it has none.

    Raises:
        BackendError: the bytes are no ONNX graph, or it has several such nodes.
    """
    try:
        return _edited(memoryview(model))
    except (IndexError, ValueError) as error:
        raise BackendError(f"not an ONNX graph: {error}") from error


def _edited(model: memoryview) -> bytes:
    pieces: list[bytes | memoryview] = []
    graphs = 0
    for number, field, content in _fields(model):
        if number != _MODEL_GRAPH or content is None:
            pieces.append(field)
            continue
        graphs += 1
        parts, found = [], 0
        for inner, part, node in _fields(content):
            if inner == _GRAPH_NODE and node is not None and _only(node, _NODE_OPERATOR) == b"NonZero":
                part = memoryview(_message(_GRAPH_NODE, _identity(_only(node, _NODE_OUTPUT))))
                found += 1
            parts.append(part)
        if found > 1:
            raise BackendError(f"the graph looks for rows in {found} places (NonZero), where only guidance should")
        if not found:
            return bytes(model)
        parts.append(memoryview(_message(_GRAPH_INPUT, _guided_input())))
        pieces.append(_key(_MODEL_GRAPH) + _varint(sum(map(len, parts))))
        pieces.extend(parts)
    if graphs != 1:
        raise ValueError(f"it holds {graphs} graphs")
    return b"".join(pieces)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """The fields of a protobuf message: number, all bytes, and the content where it has a length."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        kind, content = key & 7, None
        if kind == 0:
            _, place = _read_varint(message, place)
        elif kind == 2:
            length, place = _read_varint(message, place)
            content, place = message[place : place + length], place + length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if place > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[start:place], content


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _only(message: memoryview, wanted: int) -> bytes:
    return next((bytes(content) for number, _, content in _fields(message) if number == wanted and content), b"")


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _key(number: int, kind: int = 2) -> bytes:
    return _varint(number << 3 | kind)


def _message(number: int, content: bytes) -> bytes:
    return _key(number) + _varint(len(content)) + content


def _identity(output: bytes) -> bytes:
    """A NodeProto that hands `GUIDED` on under the name that the rest of the graph knows."""
    name = _message(_NODE_INPUT, GUIDED.encode()) + _message(_NODE_OUTPUT, output)
    return name + _message(_NODE_OPERATOR, b"Identity")


def _guided_input() -> bytes:
    """The ValueInfoProto of `GUIDED`: name, and a type of int64 [1, guided]."""
    sizes = _message(1, _key(1, 0) + _varint(1)) + _message(1, _message(2, GUIDED.encode()))
    tensor = _key(1, 0) + _varint(_INT64) + _message(2, sizes)
    return _message(1, GUIDED.encode()) + _message(2, _message(1, tensor))
