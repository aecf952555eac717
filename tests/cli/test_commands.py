"""What all commands share: help, exit codes, one line for every failure, Ctrl-C, pipes; and how extras are called."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import sundae_rt
from fakes import IMAGE, FakeBackend, write_bundle
from sundae_rt.errors import BundleError

TESTS = Path(__file__).resolve().parent.parent

# The command line of a process whose backend takes its time.
SLOW = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
import fakes, sundae_rt.runtime
from sundae_rt.cli import main
backend = fakes.FakeBackend()
backend.before_run = lambda graph: time.sleep(0.02)
sundae_rt.choice.open_backend = lambda name, threads: backend
main()
"""


def process(*arguments: str, cwd: Path, code: str | None = None, **options: Any) -> subprocess.Popen[str]:
    start = ["-m", "sundae_rt"] if code is None else ["-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *start, *arguments], cwd=cwd, text=True, **pipes)


# Help


def test_help_names_every_command(run: Any) -> None:
    result = run("--help")
    assert result.code == 0
    for command in ("generate", "inpaint", "encode", "train", "export", "info"):
        assert any(line.split()[:1] == [command] for line in result.out)


@pytest.mark.parametrize("command", ["generate", "inpaint", "encode", "train vqgan", "train prior", "export", "info"])
def test_every_command_has_help(command: str, run: Any) -> None:
    result = run(*command.split(), "--help")
    assert result.code == 0
    assert result.out[0].startswith(f"Usage: sundae-rt {command}")


def test_python_m_is_the_same_program(tmp_path: Path) -> None:
    with process("--version", cwd=tmp_path) as program:
        assert program.communicate() == (f"sundae-rt {sundae_rt.__version__}\n", "")
        assert program.returncode == 0


def test_no_command_shows_help_and_is_wrong_usage(run: Any) -> None:
    result = run()
    assert result.code == 2
    assert any("Commands:" in line for line in result.err)


@pytest.mark.parametrize(("arguments", "told"), [(("generat",), "generat"), (("generate", "--step", "3"), "--step")])
def test_a_mistyped_word_is_named_in_one_line(arguments: tuple[str, ...], told: str, run: Any) -> None:
    result = run(*arguments)
    assert (result.code, len(result.err)) == (2, 1)
    assert told in result.err[0]


# Interruption


def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it took too long")


def interrupt(*arguments: str, cwd: Path, once: Callable[[], Any]) -> tuple[int, str]:
    with process(*arguments, cwd=cwd, code=SLOW) as program:
        until(once)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=30)
        return program.returncode, err


def test_ctrl_c_keeps_every_finished_image_whole_and_says_how_many(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    out = tmp_path / "out"
    code, err = interrupt(
        *("generate", "--bundle", "fake", "--n", "5000", "--out", "out"),
        cwd=tmp_path,
        once=lambda: out.is_dir() and len(list(out.glob("0*.png"))) > 3,
    )
    assert code == 130
    told = re.fullmatch(r"sundae-rt: interrupted: (\d+) of 5000 images are in out\n", err)
    assert told is not None, err
    names = sorted(path.name for path in out.iterdir())
    assert all(re.fullmatch(r"\d{6}\.png", name) for name in names)
    assert len(names) - int(told[1]) in (0, 1)  # the last may have been renamed but not counted
    for name in names:
        with Image.open(out / name) as image:
            assert image.convert("RGB").size == IMAGE[::-1]


def test_ctrl_c_in_an_inpainting_keeps_every_finished_picture(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    code, err = interrupt(
        *(
            "inpaint",
            "image.png",
            "mask.png",
            "--bundle",
            "fake",
            "--n",
            "5000",
            "--batch-size",
            "2",
            "-o",
            "out/a.png",
        ),
        cwd=tmp_path,
        once=lambda: (tmp_path / "out" / "a-1.png").exists(),
    )
    assert code == 130
    assert re.search(r"^sundae-rt: interrupted: \d+ of 5000 images are in out/a-\*\.png$", err, re.MULTILINE)
    assert all(re.fullmatch(r"a-\d+\.png", path.name) for path in (tmp_path / "out").iterdir())


def test_ctrl_c_anywhere_else_is_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sundae_rt.engines.resolve", interrupted)
    result = run("info", "fake")
    assert (result.code, [line for line in result.err if line]) == (130, ["sundae-rt: interrupted"])


@pytest.mark.parametrize("loading", ["click", "sundae_rt.cli.generate", "numpy", "PIL", "sundae_rt.runtime"])
def test_ctrl_c_while_the_program_loads_is_one_line(loading: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {loading!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from sundae_rt.__main__ import main
main()
"""
    write_bundle(tmp_path / "fake")
    with process("generate", "--bundle", "fake", cwd=tmp_path, code=code) as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (130, "")
    assert re.fullmatch(r"\n?sundae-rt: interrupted.*\n", err), err


def test_ctrl_c_is_not_lost_while_a_library_is_loaded(
    run: Any, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(name: str, threads: int | None) -> FakeBackend:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return backend

    monkeypatch.setattr("sundae_rt.choice.open_backend", swallow)
    result = run("generate", "--bundle", "fake")
    assert (result.code, result.err) == (130, ["sundae-rt: interrupted: 0 of 1 images are in samples"])
    assert backend.calls == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stays_ignored_where_it_was(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return Path(path)

    monkeypatch.setattr("sundae_rt.engines.resolve", interrupt)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in a shell's background
    try:
        assert run("generate", "--bundle", "fake").code == 0
    finally:
        signal.signal(signal.SIGINT, before)


# Pipes and files


def test_a_reader_that_leaves_early_causes_no_noise(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    reading, writing = os.pipe()
    os.close(reading)
    with process("info", "fake", cwd=tmp_path, stdout=writing) as program:
        os.close(writing)
        _, err = program.communicate()
    assert err == ""


def test_a_file_that_cannot_be_opened_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr("sundae_rt.engines.resolve", refuse)
    result = run("info", "fake")
    assert (result.code, result.err) == (1, ["sundae-rt: some/file: Permission denied"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory: Unable to allocate 9 TiB"),
        (BundleError("odd: the graph '\x1b[2J' is\nno graph"), "odd: the graph '?[2J' is no graph"),
    ],
)
def test_every_failure_is_one_printable_line(
    error: Exception, told: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any) -> None:
        raise error

    monkeypatch.setattr("sundae_rt.engines.resolve", fail)
    result = run("info", "fake")
    assert (result.code, result.out, result.err) == (1, [], [f"sundae-rt: {told}"])


def test_a_file_name_that_is_no_text_causes_no_traceback(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    out = os.fsdecode(b"o\xff")
    with process("generate", "--bundle", "fake", "--out", out, cwd=tmp_path, code=SLOW, env=strict) as program:
        told, err = program.communicate()
    assert program.returncode == 0, err
    assert r"in o\udcff, " in told


# The commands that need an extra


class Called(ModuleType):
    """A stand-in for a module of an extra, which keeps the arguments of its functions' calls."""

    def __init__(self, name: str, **returns: Any) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for function, value in returns.items():
            setattr(self, function, self._recorder(function, value))

    def _recorder(self, function: str, value: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            options.pop("say", None)
            self.calls.append((function, arguments, options))
            return value

        return call


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Called]:
    def install(name: str, **returns: Any) -> Called:
        module = Called(name, **returns)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def test_train_passes_its_options_on(run: Any, stand_in: Callable[..., Called]) -> None:
    vqgan = stand_in("sundae_rt.training.vqgan.train", train=None)
    prior = stand_in("sundae_rt.training.prior.train", train=None)
    assert run("train", "vqgan", "--data", "crops", "--out", "a", "--preset", "toy", "--steps", 5, "--resume").code == 0
    for teacher in ((), ("--distil", "t.pt")):
        assert run("train", "prior", "--codes", "c.safetensors", "--out", "b", "--seed", 3, *teacher).code == 0
    assert vqgan.calls == [
        ("train", (Path("crops"), Path("a")), {"preset": "toy", "steps": 5, "resume": True, "seed": None})
    ]
    given = {"preset": None, "steps": None, "resume": False, "seed": 3}
    assert prior.calls == [
        ("train", (Path("c.safetensors"), Path("b")), given | {"distil": teacher}) for teacher in (None, Path("t.pt"))
    ]


@pytest.mark.parametrize("kind", ["vqgan", "prior"])
def test_describe_prints_json_and_needs_no_data(kind: str, run: Any, stand_in: Callable[..., Called]) -> None:
    training = stand_in("sundae_rt.training", describe={"parameters": 7})
    assert run("train", kind, "--describe", "--preset", "toy").out == ["{", ' "parameters": 7', "}"]
    assert training.calls == [("describe", (kind, "toy"), {})]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(("vqgan", "--out", "a"), "--data"), (("prior", "--codes", "c"), "--out"), (("prior", "--out", "a"), "--codes")],
)
def test_training_without_data_or_folder_is_wrong_usage(arguments: tuple[str, ...], missing: str, run: Any) -> None:
    result = run("train", *arguments)
    assert (result.code, len(result.err)) == (2, 1)
    assert f"Missing option '{missing}'" in result.err[0]


def test_encode_takes_exactly_one_encoder(run: Any, stand_in: Callable[..., Called]) -> None:
    encoding = stand_in("sundae_rt.training.encoding", encode_folder=None)
    stand_in("sundae_rt.training").encoding = encoding  # type: ignore[attr-defined]
    for encoders in ((), ("--bundle", "earth", "--vqgan", "vqgan.pt")):
        result = run("encode", "crops", "--out", "c.safetensors", *encoders)
        assert result.code == 2
        assert "exactly one of --bundle, --vqgan and --preset" in result.err[0]
    assert run("encode", "crops", "--out", "c.safetensors", "--vqgan", "vqgan.pt").code == 0
    assert encoding.calls == [
        (
            "encode_folder",
            (Path("crops"), Path("c.safetensors")),
            {"vqgan": Path("vqgan.pt"), "bundle": None, "preset": None, "batch_size": 16},
        )
    ]


def test_export_passes_its_options_on(run: Any, stand_in: Callable[..., Called]) -> None:
    export = stand_in("sundae_rt.export", export_checkpoint=Path("b"))
    common = {
        "vqgan": None,
        "config": None,
        "vqgan_config": None,
        "image_size": None,
        "label_order": "index",
        "label_names": None,
        "preset": None,
        "random_weights": False,
        "variants": ("fp32",),
        "calibrate": None,
        "logits": False,
    }
    assert run("export", "--checkpoint", "runs/prior.pt").code == 0
    published = ("--vqgan", "v.ckpt", "--vqgan-config", "v.yaml", "--image-size", "64x96")
    assert run("export", *published).code == 0
    faster = ("--variants", "fp32, int8", "--calibrate", "codes.safetensors")
    assert run("export", "--vqgan", "v.pt", "--out", "b", *faster, "--logits", "--force").code == 0
    assert run("export", "--preset", "toy", "--random-weights", "--out", "c").code == 0
    assert export.calls == [
        ("export_checkpoint", (Path("runs/prior.pt"),), {**common, "out": Path("prior-bundle"), "force": False}),
        (
            "export_checkpoint",
            (None,),
            {
                **common,
                "out": Path("v-bundle"),
                "vqgan": Path("v.ckpt"),
                "vqgan_config": Path("v.yaml"),
                "image_size": (64, 96),
                "force": False,
            },
        ),
        (
            "export_checkpoint",
            (None,),
            {
                **common,
                "out": Path("b"),
                "vqgan": Path("v.pt"),
                "variants": ("fp32", "int8"),
                "calibrate": Path("codes.safetensors"),
                "logits": True,
                "force": True,
            },
        ),
        (
            "export_checkpoint",
            (None,),
            {**common, "out": Path("c"), "preset": "toy", "random_weights": True, "force": False},
        ),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give either checkpoints"),
        (("--checkpoint", "a.pt", "--preset", "toy", "--random-weights"), "give either checkpoints"),
        (("--preset", "toy", "--out", "b"), "go together"),
        (("--checkpoint", "a.pt", "--random-weights"), "go together"),
        (("--preset", "toy", "--random-weights"), "Missing option '--out'"),
        (("--checkpoint", "a.pt", "--vqgan-config", "v.yaml"), "give its --vqgan"),
        (("--vqgan", "v.ckpt", "--image-size", "64x"), "neither a side N nor two of them"),
    ],
)
def test_export_refuses_sources_that_do_not_go_together(arguments: tuple[str, ...], told: str, run: Any) -> None:
    result = run("export", *arguments)
    assert (result.code, len(result.err)) == (2, 1)
    assert told in result.err[0]


@pytest.mark.parametrize(
    ("arguments", "module", "told"),
    [
        ("train vqgan --data . --out a", "torch", "training needs PyTorch: pip install 'sundae-rt[train]'"),
        ("train prior --describe", "torch", "training needs PyTorch: pip install 'sundae-rt[train]'"),
        ("encode . --vqgan v.pt --out c", "torch", "encoding needs PyTorch: pip install 'sundae-rt[train]'"),
        ("export --checkpoint p.pt", "onnx", "exporting needs onnx: pip install 'sundae-rt[export]'"),
        (
            "export --checkpoint p.pt",
            "onnxruntime",
            "onnxruntime is installed but its files are gone, as when another ONNX Runtime is uninstalled: "
            "pip install --force-reinstall --no-deps onnxruntime",
        ),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    arguments: str, module: str, told: str, tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from sundae_rt.cli import main; main()"  # as if not installed
    with process(*arguments.split(), cwd=tmp_path, code=code) as program:
        assert program.communicate() == ("", f"sundae-rt: {told}\n")
        assert program.returncode == 1
