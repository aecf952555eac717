"""What both trainers share, where no other test tells: the precision that they train in."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.training import loop  # noqa: E402


@pytest.mark.parametrize(("seconds_in_bf16", "faster"), [(1.0, True), (3.0, False)])
def test_a_processor_trains_in_bf16_where_that_is_faster(monkeypatch, seconds_in_bf16, faster):
    if torch.cuda.is_available():
        pytest.skip("a GPU says itself what it can do")
    seconds = {torch.bfloat16: seconds_in_bf16, torch.float32: 2.0}
    monkeypatch.setattr(loop, "_seconds_of_product", seconds.get)
    assert loop._is_faster_in_bf16.__wrapped__() is faster


def test_a_product_is_timed_in_either_precision():
    assert all(loop._seconds_of_product(dtype, side=8, tries=1) > 0 for dtype in (torch.bfloat16, torch.float32))
