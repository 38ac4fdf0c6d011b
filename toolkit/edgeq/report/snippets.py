"""How to load a variant, in the languages of its platforms, with the bundle's own names and types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.report.words import NNAPI, shape_text

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Variant
    from edgeq.types import TensorSpec

_KOTLIN_ARRAYS = {"int64": "LongArray", "int32": "IntArray", "float32": "FloatArray"}


def python_lines(manifest: Manifest) -> list[str]:
    """Load with the reference runtime and run one text."""
    verb = "encode" if manifest.source.task == "sentence-embedding" else "run"
    folder = f"{manifest.name}-{manifest.target}"
    return [
        "import edgeq",
        f"runtime = edgeq.load({_quoted(folder)})  # verifies every file first",
        f'result = runtime.{verb}(["a sentence"])',
    ]


def kotlin_lines(variant: Variant) -> list[str]:
    """Load with the onnxruntime-android package; `bundle` is the folder on the device."""
    feeds = [
        f"    {_string(spec.name)} to OnnxTensor.createTensor(env, arrayOf({_variable(spec)}))"
        for spec in variant.inputs
    ]
    kinds = [
        f"  // {_KOTLIN_ARRAYS.get(spec.dtype, spec.dtype)} of {shape_text(spec)}" for spec in variant.inputs
    ]
    return [
        *_kotlin_options(variant),
        f"val session = env.createSession(File(bundle, {_string(variant.model_file)}).path, options)",
        "val feeds = mapOf(",
        *(f"{feed},{kind}" for feed, kind in zip(feeds, kinds, strict=True)),
        ")",
        f"val result = session.run(feeds).use {{ it.get({_string(variant.outputs[0].name)}).get().value }}",
    ]


def language_python_lines(manifest: Manifest) -> list[str]:
    """Generate with the reference runtime."""
    folder = f"{manifest.name}-{manifest.target}"
    return [
        "from edgeq.runtime.generation.generator import open_generator",
        f"with open_generator({_quoted(folder)}) as generator:  # verifies every file first",
        '    answer = generator.generate("Once upon a time", max_tokens=64)',
        "print(answer.text)",
    ]


def llama_cpp_lines(variant: Variant) -> list[str]:
    """Generate with llama.cpp's command line."""
    return [f"llama-cli -m {variant.model_file} -p 'Once upon a time' -n 64"]


def language_kotlin_lines(variant: Variant) -> list[str]:
    """Generate with the onnxruntime-genai-android package (`ai.onnxruntime.genai`)."""
    folder = str(variant.folder)
    return [
        f"val model = Model(File(bundle, {_string(folder)}).path)",
        "val tokenizer = Tokenizer(model)",
        "val params = GeneratorParams(model)",
        'params.setSearchOption("max_length", 128.0)',
        "Generator(model, params).use { generator ->",
        '    generator.appendTokenSequences(tokenizer.encode("Once upon a time"))',
        "    val stream = tokenizer.createStream()",
        "    while (!generator.isDone) {",
        "        generator.generateNextToken()",
        "        print(stream.decode(generator.getLastTokenInSequence(0)))",
        "    }",
        "}",
    ]


def swift_lines(variant: Variant) -> list[str]:
    """Compile the package on the device, and predict; each input is an int32 `MLMultiArray` of the declared shape."""
    feeds = ", ".join(f"{_plain_string(spec.name)}: {_variable(spec)}" for spec in variant.inputs)
    output = _plain_string(variant.outputs[0].name)
    return [
        f"let package = bundle.appending(path: {_plain_string(variant.model_file)})",
        "let model = try MLModel(contentsOf: try await MLModel.compileModel(at: package))",
        *(f"// {_variable(spec)}: int32, {shape_text(spec)}" for spec in variant.inputs),
        f"let feeds = try MLDictionaryFeatureProvider(dictionary: [{feeds}])",
        f"let result = try await model.prediction(from: feeds).featureValue(for: {output})?.multiArrayValue",
    ]


def _kotlin_options(variant: Variant) -> list[str]:
    lines = ["val options = OrtSession.SessionOptions()"]
    wanted = variant.requirements.get("session_options")
    if isinstance(wanted, Mapping) and wanted.get("graph_optimization_level") == "ORT_ENABLE_BASIC":
        lines.append("options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.BASIC_OPT)")
    if variant.execution_provider == NNAPI:
        flags = ", ".join(f"NNAPIFlags.{flag}" for flag in variant.requirements.get("nnapi_flags") or ())
        lines.append(f"options.addNnapi(EnumSet.of({flags}))" if flags else "options.addNnapi()")
    return lines


def _quoted(text: str) -> str:
    """A Python string literal on one line."""
    return json.dumps(text)


def _string(text: str) -> str:
    """A Kotlin string literal: `$` starts a template there."""
    return json.dumps(text).replace("$", "\\$")


def _plain_string(text: str) -> str:
    """A Swift string literal: only a backslash starts something there, and JSON escapes it."""
    return json.dumps(text)


def _variable(spec: TensorSpec) -> str:
    """`input_ids` -> `inputIds`; nothing but letters and digits survives."""
    words = "".join(char if char.isascii() and char.isalnum() else " " for char in spec.name).split() or [
        "input"
    ]
    name = words[0].lower() + "".join(word.capitalize() for word in words[1:])
    return name if name[0].isalpha() else f"input{name}"
