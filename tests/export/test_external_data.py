"""A large model has its weights in a file beside its graph: listed, hashed, never elsewhere."""

import hashlib
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from sundae_rt.bundle import Bundle  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import BundleError  # noqa: E402
from sundae_rt.export import checks, conversion  # noqa: E402
from sundae_rt.export.graphs import Logits  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402


@pytest.fixture(scope="module")
def logits(tmp_path_factory):
    """A bundle of one graph whose weights were too many for it, and its model."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    module = Logits(HourglassPrior(HourglassConfig(11, (4, 4), (0, 1, 0), (16,), (1,)))).eval()
    inputs = {"codes": torch.arange(32, dtype=torch.int32).view(2, 16) % 11}
    model = conversion.to_onnx(module, inputs, ["logits"], folder / "logits.onnx", inline_limit=10_000)
    inside = conversion.to_onnx(module, inputs, ["logits"])
    assert [*model.graph.node] == [*inside.graph.node]  # wherever the weights are, the graph is the same
    checks.check_logits(model, module, inputs, folder)
    (folder / "logits.onnx").write_bytes(model.SerializeToString())
    digest = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("logits.onnx", "logits.onnx.data")
    }
    data = {"file": "logits.onnx.data", "sha256": digest["logits.onnx.data"]}
    manifest = {
        "format_version": 1,
        "family": "sundae",
        "name": "large",
        "latent_grid": [4, 4],
        "vocabulary": 11,
        "graphs": {"logits": {"fp32": {"file": "logits.onnx", "sha256": digest["logits.onnx"], "data": data}}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, module


@pytest.fixture(params=["folder", "zip"])
def path(request, logits, tmp_path):
    shutil.copytree(logits[0], tmp_path / "bundle")
    if request.param == "folder":
        return tmp_path / "bundle"
    return tmp_path / shutil.make_archive(str(tmp_path / "bundle"), "zip", tmp_path / "bundle")


def test_the_weights_lie_beside_the_graph(logits):
    folder, module = logits
    attention = module.prior.hourglass.spread.attention  # sees one key, which leaves nothing to queries and keys
    unused = attention.to_query.weight.nbytes + attention.to_key_value.weight.nbytes // 2
    weights = sum(tensor.nbytes for tensor in module.state_dict().values()) - unused
    assert (folder / "logits.onnx.data").stat().st_size > 0.95 * weights
    assert (folder / "logits.onnx").stat().st_size < 0.5 * weights


def test_the_size_of_a_graph_counts_them(path, logits):
    files = [logits[0] / name for name in ("logits.onnx", "logits.onnx.data")]
    assert Bundle.open(path).size("logits", "fp32") == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_a_bundle_runs_from_a_folder_and_from_a_zip_file_wherever_it_is_called(
    backend, path, logits, tmp_path, monkeypatch
):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.chdir(tmp_path)
    codes = np.arange(16, dtype=np.int32).reshape(1, 4, 4) % 11
    with sundae_rt.load(path, backend=backend, variant="fp32") as runtime, torch.no_grad():
        found = runtime.logits(codes).reshape(1, 16, 11)
        wanted = logits[1](torch.from_numpy(codes).flatten(1)).numpy()
    assert np.abs(found - wanted).max() < 1e-5


def test_what_a_zip_file_was_unpacked_to_is_removed(logits, tmp_path):
    bundle = Bundle.open(shutil.make_archive(str(tmp_path / "bundle"), "zip", logits[0]))
    with bundle.weights("logits", "fp32") as folder:
        assert (folder / "logits.onnx.data").exists()
    assert not folder.exists()


def test_altered_missing_or_foreign_weights_are_refused(logits, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(logits[0], folder)
    weights = folder / "logits.onnx.data"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    for path in (folder, shutil.make_archive(str(tmp_path / "altered"), "zip", folder)):
        with sundae_rt.load(path) as runtime, pytest.raises(BundleError, match=r"logits\.onnx\.data is damaged"):
            runtime.logits(np.zeros((1, 4, 4), int))
    weights.rename(tmp_path / "outside")
    with sundae_rt.load(folder) as runtime, pytest.raises(BundleError, match=r"logits\.onnx\.data is missing"):
        runtime.logits(np.zeros((1, 4, 4), int))
    weights.symlink_to(tmp_path / "outside")
    with sundae_rt.load(folder) as runtime, pytest.raises(BundleError, match="leads out of the bundle"):
        runtime.logits(np.zeros((1, 4, 4), int))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".hidden"])
def test_the_manifest_names_weights_inside_the_bundle_alone(name, logits, tmp_path):
    manifest = json.loads((logits[0] / "manifest.json").read_text())
    manifest["graphs"]["logits"]["fp32"]["data"]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"graphs\.logits\.fp32\.data\.file must be a plain name"):
        Bundle.open(tmp_path)


def test_a_manifest_with_weights_is_written_as_it_was_read(logits):
    manifest = Bundle.open(logits[0]).manifest
    assert json.loads(manifest.to_json())["graphs"]["logits"]["fp32"]["data"]["file"] == "logits.onnx.data"
    assert type(manifest).from_json(manifest.to_json()) == manifest


def test_weights_of_which_the_manifest_does_not_know_are_refused_whatever_else_lies_there(
    logits, tmp_path, monkeypatch
):
    folder = tmp_path / "bundle"
    shutil.copytree(logits[0], folder)
    (folder / "a").symlink_to("nowhere")  # what else lies in the folder does not matter
    with sundae_rt.load(folder, variant="fp32") as runtime:
        runtime.logits(np.zeros((1, 4, 4), int))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["graphs"]["logits"]["fp32"]["data"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(folder)  # where ONNX Runtime would look for them
    for path in (folder, shutil.make_archive(str(tmp_path / "unnamed"), "zip", folder)):
        with (
            sundae_rt.load(path) as runtime,
            pytest.raises(
                BundleError, match=r"logits has weights in 'logits\.onnx\.data', which its manifest does not"
            ),
        ):
            runtime.logits(np.zeros((1, 4, 4), int))


def test_info_tells_whether_the_weights_beside_a_graph_are_intact(logits, tmp_path, capsys):
    shutil.copytree(logits[0], tmp_path / "bundle")
    assert run(["info", str(tmp_path / "bundle"), "--json"]) == 0
    size = json.loads(capsys.readouterr().out)["graphs"]["logits"]["fp32"]["bytes"]
    assert size == Bundle.open(logits[0]).size("logits", "fp32")
    weights = tmp_path / "bundle" / "logits.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert run(["info", str(tmp_path / "bundle")]) == 1
    told = capsys.readouterr()
    assert "NOT INTACT" in told.out and "logits.onnx.data is damaged" in told.err
