"""What TensorRT is given: batch sizes, and a graph to which the host tells the guided rows."""

from __future__ import annotations

import numpy as np
import pytest

from sundae_rt.errors import BackendError, InputError
from sundae_rt.tensorrt.guidance import GUIDED, guided_rows, take_guided_rows
from sundae_rt.tensorrt.profiles import DEFAULT, Profile, choose, parse_all

# Batch sizes


@pytest.mark.parametrize(
    ("text", "sizes"), [("1", (1, 1, 1)), ("1:64", (1, 64, 64)), ("2:16:64", (2, 16, 64)), ("8:8", (8, 8, 8))]
)
def test_a_profile_is_read_from_text(text: str, sizes: tuple[int, int, int]) -> None:
    profile = Profile.parse(text)
    assert (profile.smallest, profile.likely, profile.largest) == sizes
    assert Profile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "0", "0:4", "4:2", "1:9:4", "1:2:3:4", "a", "1:", "-1", "1:99999"])
def test_what_is_no_profile_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^batch must ") as caught:
        Profile.parse(text)
    assert "\n" not in str(caught.value)


def test_profiles_are_sorted_and_each_is_there_once() -> None:
    assert [*map(str, parse_all(["1:64", "1", "1:64"]))] == ["1", "1:64"]
    assert parse_all([]) == DEFAULT


@pytest.mark.parametrize(
    ("profiles", "rows", "chosen"),
    [
        (["1", "1:64"], 1, (0, 1)),
        (["1", "1:64"], 2, (1, 2)),
        (["1", "1:64"], 65, None),
        (["1:8", "1:64"], 8, (0, 8)),
        (["1", "16:64"], 5, (1, 16)),
        (["4:8", "2:64"], 3, (1, 3)),
    ],
)
def test_a_batch_takes_the_profile_that_costs_the_fewest_rows(
    profiles: list[str], rows: int, chosen: tuple[int, int] | None
) -> None:
    assert choose([Profile.parse(text) for text in profiles], rows) == chosen


# Guidance


def guided_model(places: int = 1) -> bytes:
    """Rows whose `guidance` is not 1 get 10 added: y [B], found by NonZero in one place or several."""
    from onnx import TensorProto, helper

    guidance, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("B",)) for name in ("guidance", "y"))
    one, ten = (helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("one", 1), ("ten", 10)))
    nodes = [
        helper.make_node("Equal", ["guidance", "one"], ["same"]),
        helper.make_node("Not", ["same"], ["other"]),
        *(helper.make_node("NonZero", ["other"], [f"rows{place}"]) for place in range(places)),
        helper.make_node("Transpose", ["rows0"], ["indices"], perm=[1, 0]),
        helper.make_node("GatherND", ["guidance", "indices"], ["taken"]),
        helper.make_node("Add", ["taken", "ten"], ["added"]),
        helper.make_node("ScatterND", ["guidance", "indices", "added"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [guidance], [y], [one, ten])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


def run(model: bytes, **inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, inputs)
    return y


@pytest.mark.parametrize("guidance", [[1], [2], [1, 1, 1], [1, 2.5, 0], [3, 3]])
def test_the_host_tells_the_guided_rows_and_nothing_else_changes(guidance: list[float]) -> None:
    onnx = pytest.importorskip("onnx")
    model, values = guided_model(), np.array(guidance, np.float32)
    edited = take_guided_rows(model)
    onnx.checker.check_model(onnx.load_from_string(edited))
    assert b"NonZero" not in edited
    assert np.array_equal(run(edited, guidance=values, **{GUIDED: guided_rows(values)}), run(model, guidance=values))


def test_a_graph_that_looks_for_no_rows_is_taken_as_it_is() -> None:
    pytest.importorskip("onnx")
    edited = take_guided_rows(guided_model())
    assert take_guided_rows(edited) == edited


def test_a_graph_that_looks_for_rows_elsewhere_too_is_refused() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(BackendError, match=r"in 2 places"):
        take_guided_rows(guided_model(places=2))


@pytest.mark.parametrize("data", [b"", b"\x0b", b"\x3a\x7fshort", b"\xff" * 12, b"junk"])
def test_what_is_no_graph_is_one_line(data: bytes) -> None:
    with pytest.raises(BackendError, match=r"^not an ONNX graph: "):
        take_guided_rows(data)
