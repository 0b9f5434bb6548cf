"""Models in the formats that Keras exports, as functions of a batch."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# Formats: the ending of the file, and what writing and reading it takes, by
# backend. Keras writes a format from these backends only.
FORMATS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "tf_saved_model": ("", {"tensorflow": (), "jax": ("tensorflow",)}),
    "onnx": (
        ".onnx",
        {
            "tensorflow": ("tf2onnx", "onnxruntime"),
            "jax": ("jax2onnx", "onnxruntime"),
            "torch": ("onnx", "onnxruntime"),
        },
    ),
    "litert": (
        ".tflite",
        {
            "tensorflow": ("ai_edge_litert",),
            "torch": ("litert_torch", "ai_edge_litert"),
        },
    ),
    "openvino": (
        ".xml",
        {"tensorflow": ("openvino",), "torch": ("openvino",)},
    ),
    "torch": (".pt2", {"torch": ()}),
}


def obstacle(form: str) -> str | None:
    """Returns why a format cannot be written and read here, or `None`."""
    backend = keras.backend.backend()
    _, libraries = FORMATS[form]
    if backend not in libraries:
        return f"Keras does not write {form} from {backend}"
    for library in libraries[backend]:
        if importlib.util.find_spec(library) is None:
            return f"{library} is not installed"
    return None


def export(
    model: keras.Model, form: str, folder: pathlib.Path, rows: int
) -> pathlib.Path:
    """Writes a model, for batches of any size where that is possible."""
    file = folder / f"model{FORMATS[form][0]}"
    arguments: dict[str, Any] = {}
    if form == "torch":
        import torch

        arguments["dynamic_shapes"] = {0: torch.export.Dim("batch")}
    elif form == "litert" and keras.backend.backend() == "torch":
        shape = (rows, *model.input_shape[1:])
        arguments["input_signature"] = [keras.InputSpec(shape=shape)]
    model.export(str(file), format=form, verbose=False, **arguments)
    return file


def load(form: str, file: pathlib.Path) -> Callable[[np.ndarray], Any]:
    """Returns what computes the outputs of a file for a batch."""
    if form == "tf_saved_model":
        import tensorflow as tf

        artifact = tf.saved_model.load(str(file))
        return lambda x: artifact.serve(x)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        (inputs,) = session.get_inputs()
        return lambda x: session.run(None, {inputs.name: x})[0]
    if form == "litert":
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(str(file)).get_signature_runner()
        (name,) = run.get_input_details()
        return lambda x: next(iter(run(**{name: x}).values()))
    if form == "openvino":
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(str(file), "CPU", exact)
        return lambda x: compiled(x)[0]
    import torch

    program = torch.export.load(file).module()

    def serve(x: np.ndarray) -> Any:
        with torch.no_grad():
            return program(torch.from_numpy(x))

    return serve
