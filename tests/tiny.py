"""The smallest graphs that show what a backend does with one."""

from __future__ import annotations

from typing import Any

from onnx import GraphProto, TensorProto, helper


def model(operator: str = "Add", shape: tuple[Any, ...] = ("B", 3)) -> bytes:
    """The graph y = operator(x, x) on int32 [B,3]."""
    return _packed(helper.make_graph([helper.make_node(operator, ["x", "x"], ["y"])], "g", *_sides(shape)))


def model_with_weights_beside(location: str) -> bytes:
    """The graph y = x + w on int32 [B,3], where w is the 12 bytes of the file `location`."""
    weights = TensorProto(name="w", data_type=TensorProto.INT32, dims=[3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    weights.external_data.add(key="length", value="12")
    return _packed(helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", *_sides(("B", 3)), [weights]))


def _sides(shape: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in "xy")
    return [x], [y]


def _packed(graph: GraphProto) -> bytes:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return made.SerializeToString()
