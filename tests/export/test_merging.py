"""Equal tensors and products of one left side become one: the same numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sundae_rt.export.constants import constant_products  # noqa: E402
from sundae_rt.export.merging import merge_products, share_tensors  # noqa: E402
from sundae_rt.export.running import opened  # noqa: E402


def products(*rights: str) -> onnx.ModelProto:
    """``x @ right`` for each of the named weights, each an output of its own, then one of the first by itself."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(16, 8 * index)).astype(np.float32) for index, name in enumerate("ab", start=1)}
    nodes = [helper.make_node("MatMul", ["x", name], [f"y{index}"]) for index, name in enumerate(rights)]
    nodes.append(helper.make_node("MatMul", ["z", "w"], ["last"]))
    weights["w"] = rng.normal(size=(16, 4)).astype(np.float32)
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 16]) for name in "xz"]
    names = [node.output[0] for node in nodes]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in names]
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "products", entries, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def changed(model: onnx.ModelProto, change: Callable[[ir.Model], None]) -> onnx.ModelProto:
    """A copy that `change` was done to."""
    other = ir.from_proto(model)
    change(other)
    result = ir.to_proto(other)
    onnx.checker.check_model(result)
    return result


@pytest.mark.parametrize("rights", ["ab", "ba", "aab"])
def test_products_of_one_left_side_become_one_with_the_same_results(rights: str) -> None:
    model = products(*rights)
    merged = changed(model, merge_products)
    assert [node.op_type for node in merged.graph.node] == ["MatMul", "Split", "MatMul"]
    rng = np.random.default_rng(1)
    inputs = {name: rng.normal(size=(5, 16)).astype(np.float32) for name in "xz"}
    for name, wanted in opened(model)(inputs).items():
        np.testing.assert_array_equal(opened(merged)(inputs)[name], wanted)
    assert {"a", "b"}.isdisjoint(tensor.name for tensor in merged.graph.initializer)


def test_a_product_by_itself_stays_as_it_is() -> None:
    model = changed(products("a"), merge_products)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul"]
    assert [node.input[1] for node in constant_products(model)] == ["a", "w"]


def test_a_weight_that_others_read_too_stays_in_the_graph() -> None:
    model = products("a", "b")
    model.graph.node.append(helper.make_node("Transpose", ["a"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, [None, None]))
    merged = changed(model, merge_products)
    assert "a" in {tensor.name for tensor in merged.graph.initializer}


def test_of_equal_tensors_one_is_left_for_all_that_read_them() -> None:
    """Equal in type, shape and every bit: -0 is not 0."""
    zeros = np.zeros((1, 3), np.float32)
    tensors = {"a": zeros, "b": zeros.copy(), "c": -zeros, "d": zeros.reshape(3), "e": zeros.view(np.int32)}
    nodes = [
        helper.make_node(
            "Mul" if name < "e" else "Cast",
            [*("x" * (name < "e")), name],
            [f"y{name}"],
            **({} if name < "e" else {"to": TensorProto.FLOAT}),
        )
        for name in tensors
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])
    outputs = [helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, [None, 3]) for name in tensors]
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "equal", [entry], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    shared = changed(model, share_tensors)
    assert [tensor.name for tensor in shared.graph.initializer] == ["a", "c", "d", "e"]
    inputs = {"x": np.array([[1, -2, 3]], np.float32)}
    for name, wanted in opened(model)(inputs).items():
        assert opened(shared)(inputs)[name].tobytes() == wanted.tobytes()
