"""The benchmark of the whole job, at toy size: who takes part, what the table says, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from house import benchmark

CONTENDERS = ["eager", "onnxruntime", "openvino", "runtime", "runtime-onnxruntime"]


@pytest.fixture(scope="module")
def cpu() -> Any:
    return benchmark("cpu")


@pytest.fixture(scope="module")
def ran(cpu: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run: its lines, and what it wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    lines: list[str] = []
    options = ["--preset", "toy", "--quick", "--steps", 2, "--batch-size", 4, "--threads", 1]
    options += [word for name in CONTENDERS for word in ("--contender", name)]
    options += ["--bundles", folder / "bundles", "--results", folder / "results"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu.machine, "_SECONDS", 0.001)  # for the limits of the machine, which are not what is tested
        patch.setattr(cpu.click, "echo", lambda text="": lines.extend(str(text).splitlines()))
        patch.chdir(folder)  # it may be called from anywhere
        cpu.main.main([str(option) for option in options], standalone_mode=False)
    (written,) = (folder / "results").iterdir()
    return {"lines": lines, "written": json.loads(written.read_text()), "bundles": folder / "bundles"}


def test_every_contender_makes_all_images(ran: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in ran["written"]["presets"]["toy"]["rows"]}
    assert list(rows) == CONTENDERS
    if rows["openvino"]["missing"] is not None:
        assert rows.pop("openvino")["missing"] == "ModuleNotFoundError: No module named 'openvino'"
    for row in rows.values():
        assert row["missing"] is None
        assert (row["images"], len(row["seconds"])) == (8, 1)
        assert row["seconds"][0] > 0
        assert row["peak_memory_mib"] > 10
    assert rows["eager"]["how"] == rows["onnxruntime"]["how"] == "fp32"
    assert rows["eager"]["how"] == rows["onnxruntime"]["how"] == "fp32"
    assert rows["runtime-onnxruntime"]["how"] in {"cpu, int8", "cpu, fp32"}  # the first where it pays
    backend, _, variant = rows["runtime"]["how"].partition(", ")
    assert backend in {"tensorrt", "cuda", "openvino", "cpu"} and variant


def test_the_table_says_how_many_times_faster_than_eager_each_is(ran: dict[str, Any]) -> None:
    preset = ran["written"]["presets"]["toy"]
    head, rule, *table = preset["table"]
    assert head.startswith("| contender | runs | seconds an image | times eager | peak memory, MiB |")
    assert all(line in ran["lines"] for line in preset["table"])
    assert len(table) == len(CONTENDERS)
    eager = preset["rows"][0]["seconds"][0]
    for line, row in zip(table, preset["rows"], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == rule.count("---")
        if row["missing"] is None:
            assert cells[:2] == [row["name"], row["how"]]
            assert float(cells[3]) == pytest.approx(eager / row["seconds"][0], abs=0.01)


def test_what_was_run_where_is_written(ran: dict[str, Any]) -> None:
    written = ran["written"]
    how = {"images": 8, "steps": 2, "batch_size": 4, "threads": 1, "rounds": 1}
    assert written["settings"] == how
    assert written["machine"]["versions"]["sundae-rt"]
    assert written["gemm_gflops"].keys() == {"fp32", "bf16", "int8"}
    assert written["presets"]["toy"]["gflop_per_image"] > 0
    assert (ran["bundles"] / "toy" / "manifest.json").is_file()


def test_who_cannot_take_part_has_a_line_that_says_why(cpu: Any) -> None:
    rows = [cpu.Row("eager", "fp32", 4, [8.0]), cpu.Row("compile", missing="no C++ compiler")]
    table = cpu._table(rows, work=10.0, limit=50.0)
    assert table[2:] == ["| eager | fp32 | 2.000 | 1.00 | 0 | 10 % |", "| compile | not run: no C++ compiler | | | | |"]


def test_a_contender_that_fails_is_told_of_by_its_last_line(cpu: Any, tmp_path: Path) -> None:
    turns = cpu.race.Turns("runtime-onnxruntime", "toy", tmp_path, 4, 1)
    try:
        with pytest.raises(RuntimeError, match=r"BundleError.*manifest\.json is missing"):
            turns.take(1, 1)
    finally:
        turns.end()
