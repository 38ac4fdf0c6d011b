"""Language models too large to hold: streamed, run in segments, and still the same bundle."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeq
from edgeq.cli import run_command_line as run_command
from edgeq.graph import streamed_tensor
from edgeq.pipeline.generation.noise import HEAD
from edgeq.pipeline.generation.written_decoder import DecoderInSegments, WholeDecoder
from edgeq.pipeline.kernel_noise import measure_noise
from edgeq.progress import SilentStage
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.perplexity import Window
from edgeq.targets import kernels, onnx_file
from edgeq.targets.onnx_twins import DecoderTwins, SegmentTwins

pytest.importorskip("onnxruntime_genai")

RTN = """\
name: rtn4
default: {format: weight-only, bits: 4, block_size: 32, symmetric: true, method: rtn}
"""


@pytest.fixture(scope="module")
def streaming():
    """Every model counts as large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_tensor, "HELD_BYTES", 0)
        patch.setattr(onnx_file, "STREAMED_BYTES", 0)
        yield


@pytest.fixture(scope="module")
def folder(tiny_decoder):
    return tiny_decoder("llama", num_key_value_heads=1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "rtn4.yaml"
    path.write_text(RTN)
    return path


@pytest.fixture(scope="module")
def held(folder, recipe, tmp_path_factory):
    return edgeq.export(
        folder, recipe=recipe, output=tmp_path_factory.mktemp("held") / "bundle", gates=["kl_mean<=9"]
    )


@pytest.fixture(scope="module")
def streamed(held, folder, recipe, tmp_path_factory, streaming):
    return edgeq.export(
        folder, recipe=recipe, output=tmp_path_factory.mktemp("streamed") / "bundle", gates=["kl_mean<=9"]
    )


def model_of(bundle) -> Path:
    (variant,) = bundle.variants
    return bundle.folder / variant.model_file


def arrays(bundle) -> dict[str, np.ndarray]:
    graph = onnx.load(model_of(bundle)).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def metrics(bundle) -> dict[str, float]:
    return {metric.metric: metric.value for metric in bundle.manifest.metrics}


def test_the_same_weights_under_the_same_names(held, streamed):
    assert model_of(streamed).with_name("model.onnx.data").is_file()
    assert not model_of(held).with_name("model.onnx.data").exists()
    expected, found = arrays(held), arrays(streamed)
    assert list(expected) == list(found) and len(found) > 20
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert json.loads((held.folder / "plan.json").read_text())["weights"][0]["method"] == "rtn"


def test_the_same_figures(held, streamed):
    expected, found = metrics(held), metrics(streamed)
    assert found["kl_mean"] == pytest.approx(expected["kl_mean"], rel=1e-4) and found["kl_mean"] > 1e-4
    assert found["perplexity_original"] == pytest.approx(expected["perplexity_original"], rel=1e-6)
    (variant,) = streamed.variants
    assert variant.requirements["min_ram_mb"] >= 32


def test_it_runs_and_is_checked_like_any_other(streamed, tmp_path, capsys):
    arguments = ["--prompt", "Once upon a time", "--max-tokens", "8", "--json"]
    assert run_command(["run", str(streamed.folder), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["generated_tokens"] == 8
    assert run_command(["validate", str(streamed.folder)]) == 0
    copy = tmp_path / "bundle"
    shutil.copytree(streamed.folder, copy)
    data = copy / model_of(streamed).relative_to(streamed.folder).with_name("model.onnx.data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    capsys.readouterr()
    assert run_command(["run", str(copy), *arguments]) == 4
    assert "model.onnx.data` was changed" in capsys.readouterr().err
    data.unlink()
    assert run_command(["run", str(copy), *arguments]) == 4
    assert "model.onnx.data` is missing" in capsys.readouterr().err
    data.write_bytes(content)
    data.with_name("more.data").write_bytes(b"x")
    assert run_command(["run", str(copy), *arguments]) == 4
    assert "more.data` is not listed" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "largest"), [("int4", 0.02), ("fp16", 1e-6)])
def test_never_loaded_whole(folder, held, tmp_path, precision, largest, streaming, monkeypatch):
    """With a method that calibrates, and in float; the file itself is run in segments too."""
    monkeypatch.setattr(kernels, "HELD_BYTES", 0)
    found = edgeq.export(folder, precision=precision, output=tmp_path / "bundle", gates=["kl_mean<=9"])
    assert 0 < metrics(found)["kl_mean"] < largest < metrics(held)["kl_mean"]
    assert model_of(found).with_name("model.onnx.data").is_file()
    (variant,) = found.variants
    notes = " ".join(variant.placement["notes"])
    assert "min_ram_mb is estimated" in notes and "compared with the original some nodes at a time" in notes
    assert variant.requirements["min_ram_mb"] >= 32
    tolerances = [gate for entry in found.manifest.golden for gate in entry.tolerances]
    assert all("kernel noise" in gate.derived_from for gate in tolerances)
    assert any("other cuts of the graph" in gate.derived_from for gate in tolerances)
    # Golden steps come from segments, and a session repeats them.
    assert run_command(["validate", str(found.folder)]) == 0


def test_a_file_in_segments_computes_what_a_session_computes(streamed):
    settings = GenerationSettings.load(streamed.folder / GENERATION_FILE)
    model = model_of(streamed)
    whole = WholeDecoder(DecoderSession(model, settings.cache, settings.context_length))
    windows = [Window(np.arange(5, 45), 10), Window(np.arange(60, 90), 1)]
    pairs = list(zip(whole.scored(windows), DecoderInSegments(model).scored(windows), strict=True))
    assert [len(one) for one, _ in pairs] == [30, 29]
    assert all(np.abs(one - other).max() < 1e-4 * np.abs(one).max() for one, other in pairs)
    prompts = [[1, 2, 3, 4], [9, 8, 7]]
    for one, other in zip(whole.answers(prompts), DecoderInSegments(model).answers(prompts), strict=True):
        assert np.array_equal(one.token, other.token) and one.past.keys() == other.past.keys()
        assert all(np.allclose(one.past[name], other.past[name], atol=1e-4) for name in one.past)
        assert np.abs(one.step - other.step).max() < 1e-4 * np.abs(one.step).max()
        assert np.abs(one.step - other.logits[-1]).max() > 0.1 * np.abs(one.step).max()


def test_noise_in_segments_is_that_of_sessions(streamed):
    """Twins start from the cache that a case records, and round what the session's twins round."""
    model, cases = model_of(streamed), streamed.golden_cases()
    (variant,) = streamed.variants
    found = {}
    for twins in (DecoderTwins(model), SegmentTwins(model)):
        noise = measure_noise(twins, variant.id, HEAD, cases, SilentStage())["logits"]
        found[type(twins).__name__] = noise.rms
        assert "3 roundings of activations" in noise.sources and noise.rms > 1e-3
    assert 0.5 < found["SegmentTwins"] / found["DecoderTwins"] < 2


GROWTH = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from export_memory import Shape, write_checkpoint
from edgeq.exporters.causal_lm import load_language_model
from edgeq.graph import streamed_tensor
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.forward.data import DataSets
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import load_recipe
from edgeq.targets import onnx_file
from edgeq.targets.target import LoweringInput
from edgeq.targets.cpu import lower_for_cpu
from edgeq.targets.onnx_file import save_onnx

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000

streamed_tensor.HELD_BYTES = onnx_file.STREAMED_BYTES = 0
folder, layers, hold = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "hold"
write_checkpoint(folder / "model", Shape(layers, 768, 2048, 4096))
exported = load_language_model(folder / "model")
before = peak()
held = [value.const_value.numpy() for value in exported.canonical.model.graph.initializers.values()] if hold else []
recipe = load_recipe(str(folder / "rtn4.yaml"))
quantized = quantize_model(exported.canonical, DataSets((), 0, (), (), (), (), padding=None), recipe, SilentProgress())
source = LoweringInput(exported.canonical, quantized.plan, quantized.graph, quantized.weights, quantized.precision)
save_onnx(lower_for_cpu(source), folder / "written" / "model.onnx")
print(json.dumps({"growth": peak() - before, "file": (folder / "written" / "model.onnx.data").stat().st_size / 1e6}))
"""
NOISE_MB = 20


def growth(folder, layers, hold="stream"):
    """MB of peak RSS that quantizing, lowering and writing add, and the MB written."""
    (folder / "rtn4.yaml").write_text(RTN)
    benchmarks = str(Path(__file__).parents[2] / "benchmarks")
    command = [sys.executable, "-c", GROWTH, benchmarks, str(folder), str(layers), hold]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "model")
    found = json.loads(done.stdout)
    return found["growth"], found["file"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads VmHWM from /proc")
def test_memory_does_not_grow_with_the_model(tmp_path_factory):
    small, _ = growth(tmp_path_factory.mktemp("small"), 2)
    large, written = growth(tmp_path_factory.mktemp("large"), 12)
    assert written > 40
    assert large - small < NOISE_MB
    # The bound fails where the weights are held.
    held, _ = growth(tmp_path_factory.mktemp("held"), 12, "hold")
    assert held - small > 10 * NOISE_MB
