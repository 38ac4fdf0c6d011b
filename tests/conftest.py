"""Fixtures every test may use: tiny random models of each architecture, and their exports, made once per session."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from subprocess import Popen
from types import ModuleType
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Before numpy and torch are imported: workers that all use every core mostly wait for each other.
    cores = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs deaf to Ctrl-C, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load_support(name: str) -> ModuleType:
    """Import `tests/support/<name>.py`, which importlib mode keeps off the path."""
    path = Path(__file__).parent / "support" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"edgeq_tests_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def no_emulated_twin() -> Iterator[None]:
    """Exports in this process measure kernel noise without the ARM64 lane, which takes seconds of each.

    `test_minilm.py` exports in a process of its own, with the lane where it is set up.
    """
    from edgeq.targets import onnx_session, onnx_twins

    with pytest.MonkeyPatch.context() as patch:
        for module in (onnx_session, onnx_twins):
            patch.setattr(module, "emulated_arm64", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def traced_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Exports in this process trace a model that another test traced before only where `fresh_traces` asks for it."""
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own in that of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "traced-graphs"
    folder.mkdir(exist_ok=True)
    graphs = _load_support("traced_graphs").TracedGraphs(folder)
    with graphs.in_use():
        yield graphs


@pytest.fixture
def fresh_traces(traced_graphs: Any) -> Iterator[None]:
    """Exports of this test trace their model, whoever traced it before."""
    with traced_graphs.set_aside():
        yield


@pytest.fixture(scope="session")
def tiny_models() -> ModuleType:
    """The functions of tests/support/tiny_models.py."""
    return _load_support("tiny_models")


@pytest.fixture(scope="session")
def tiny_model(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("bert", Task.FILL_MASK, hidden_act="relu")`: folder of a random model. Read it, never write to it."""

    @cache
    def build(architecture: str = "bert", task: str = "feature-extraction", **config: Any) -> Path:
        from edgeq.types import Task

        folder = tmp_path_factory.mktemp(architecture)
        return Path(tiny_models.build_tiny_model(folder, architecture, Task(task), **config))

    return build


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`trained_model("score")`: folder of a small model that has learned something. Read it, never write to it."""
    trained = _load_support("trained_models")

    @cache
    def build(kind: str) -> Path:
        return Path(trained.build_trained_model(tmp_path_factory.mktemp(kind) / "model", kind, steps=120))

    return build


@pytest.fixture(scope="session")
def exported(tiny_model: Callable[..., Path]) -> Callable[..., Any]:
    """`exported("bert", Task.FILL_MASK)`: the ExportedModel of a tiny model, made once. Clone the graph to edit it."""

    @cache
    def export(architecture: str = "bert", task: str = "feature-extraction", **config: Any) -> Any:
        from edgeq.exporters import load_model

        return load_model(tiny_model(architecture, task, **config))

    return export


@pytest.fixture(scope="session")
def tiny_decoders() -> ModuleType:
    """The functions of tests/support/tiny_decoders.py."""
    return _load_support("tiny_decoders")


@pytest.fixture(scope="session")
def packed_checkpoints() -> ModuleType:
    """The functions of tests/support/packed_checkpoints.py."""
    return _load_support("packed_checkpoints")


@pytest.fixture(scope="session")
def hostile_inputs() -> ModuleType:
    """tests/support/hostile_inputs.py."""
    return _load_support("hostile_inputs")


@pytest.fixture(scope="session")
def gguf_files() -> ModuleType:
    """The functions of tests/support/gguf_files.py."""
    return _load_support("gguf_files")


@pytest.fixture(scope="session")
def tiny_decoder(tiny_decoders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_decoder("qwen2", num_hidden_layers=1)`: folder of a random language model. Read it, never write to it."""

    @cache
    def build(family: str = "llama", **config: Any) -> Path:
        return Path(tiny_decoders.build_tiny_decoder(tmp_path_factory.mktemp(family), family, **config))

    return build


@pytest.fixture(scope="session")
def whole_models() -> ModuleType:
    """The functions of tests/support/whole_models.py."""
    return _load_support("whole_models")


@pytest.fixture(scope="session")
def mutate_bundle() -> ModuleType:
    """The functions of tests/support/mutate_bundle.py."""
    return _load_support("mutate_bundle")


@pytest.fixture(scope="session")
def block_layers() -> ModuleType:
    """The functions of tests/support/block_layers.py."""
    return _load_support("block_layers")


@pytest.fixture(scope="session")
def start_child() -> Callable[[str, Path], Popen[str]]:
    """`start_child` of tests/support/child_process.py."""
    found: Callable[[str, Path], Popen[str]] = _load_support("child_process").start_child
    return found
