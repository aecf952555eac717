"""The commands that need an extra: what they pass on to it, and what they say where it is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from processes import process


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
    for drawn in ((), ("--drawn-codes", "d")):
        words = ("--data", "crops", "--out", "a", "--preset", "toy", "--steps", 5, "--resume", *drawn)
        assert run("train", "vqgan", *words).code == 0
    for teacher in ((), ("--distil", "t.pt")):
        assert run("train", "prior", "--codes", "c.safetensors", "--out", "b", "--seed", 3, *teacher).code == 0
    told = {"preset": "toy", "steps": 5, "resume": True, "seed": None}
    assert vqgan.calls == [
        ("train", (Path("crops"), Path("a")), told | {"drawn_codes": drawn}) for drawn in (None, Path("d"))
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
        "half_weights": False,
    }
    assert run("export", "--checkpoint", "runs/prior.pt").code == 0
    published = ("--vqgan", "v.ckpt", "--vqgan-config", "v.yaml", "--image-size", "64x96")
    assert run("export", *published).code == 0
    faster = ("--variants", "fp32, int8", "--calibrate", "codes.safetensors")
    assert run("export", "--vqgan", "v.pt", "--out", "b", *faster, "--logits", "--half-weights", "--force").code == 0
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
                "half_weights": True,
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
