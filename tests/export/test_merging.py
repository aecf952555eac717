"""Products of one left side become one: the same numbers, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sundae_rt.export.merging import constant_products, merge_products  # noqa: E402
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


@pytest.mark.parametrize("rights", ["ab", "ba", "aab"])
def test_products_of_one_left_side_become_one_with_the_same_results(rights: str) -> None:
    model, merged = products(*rights), products(*rights)
    merge_products(merged)
    onnx.checker.check_model(merged)
    assert [node.op_type for node in merged.graph.node] == ["MatMul", "Split", "MatMul"]
    rng = np.random.default_rng(1)
    inputs = {name: rng.normal(size=(5, 16)).astype(np.float32) for name in "xz"}
    for name, wanted in opened(model)(inputs).items():
        np.testing.assert_array_equal(opened(merged)(inputs)[name], wanted)
    assert {"a", "b"}.isdisjoint(tensor.name for tensor in merged.graph.initializer)


def test_a_product_by_itself_stays_as_it_is() -> None:
    model = products("a")
    before = model.SerializeToString()
    merge_products(model)
    assert model.SerializeToString() == before
    assert [node.input[1] for node in constant_products(model)] == ["a", "w"]


def test_a_weight_that_others_read_too_stays_in_the_graph() -> None:
    model = products("a", "b")
    model.graph.node.append(helper.make_node("MatMul", ["z", "a"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, [None, None]))
    merge_products(model)
    onnx.checker.check_model(model)
    assert "a" in {tensor.name for tensor in model.graph.initializer}
