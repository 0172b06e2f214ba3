"""Runs an exported network in place of the Keras one: ONNX Runtime, OpenVINO, LiteRT or a SavedModel.

Reading, normalising, windows and blending stay those of `zoo.predict`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zoo.errors import unknown_choice
from zoo.inference.compiled_network import Forward

RUNTIMES = {"onnx": "network.onnx", "openvino": "network.xml", "litert": "network.tflite", "tensorflow": "saved_model"}
Run = Callable[[list[np.ndarray]], np.ndarray]


def opened(runtime: str, path: Path) -> Run:
    """Opens an exported network.

    Args:
        runtime: "onnx", "openvino", "litert" or "tensorflow".
        path: the file, or the folder of a SavedModel, as `zoo.export` wrote it.

    Returns:
        A function from the inputs of one window, `[(1, x, y, z, channels), (1, n)]`, to logits.

    Raises:
        ImportError: the runtime is not installed; what installs it is named.
        ValueError: there is no such runtime.

    Example:
        >>> run = opened("onnx", Path("network.onnx"))  # doctest: +SKIP
        >>> logits = run([np.zeros((1, 64, 64, 64, 1), np.float32)])  # doctest: +SKIP
    """
    if runtime not in _OPENERS:
        raise unknown_choice("runtime", runtime, ["keras", *_OPENERS])
    try:
        return _OPENERS[runtime](path)
    except ModuleNotFoundError as error:
        extra = "cpu" if runtime == "tensorflow" else "export"
        raise ImportError(f"The runtime {runtime!r} is missing ({error}): pip install 'zoo3d[{extra}]'.") from error


def prepare(runtime: str, path: Path) -> Forward:
    """Opens an exported network for `zoo.predict`; it runs one window at a time."""
    run = opened(runtime, path)

    def forward(windows: np.ndarray, conditioning: Sequence[float] | None = None) -> np.ndarray:
        beside = [] if conditioning is None else [np.asarray([conditioning], np.float32)]
        return np.concatenate([run([np.ascontiguousarray(window[None]), *beside]) for window in windows])

    return forward


def _onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    names = [port.name for port in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, _order(names, inputs), strict=True)))[0]


def _openvino(path: Path) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(str(path), "AUTO", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [port.get_any_name() for port in compiled.inputs]
    return lambda inputs: np.array(compiled(_order(names, inputs))[0])


def _litert(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    ports = interpreter.get_input_details()
    (output,) = interpreter.get_output_details()

    def run(inputs: list[np.ndarray]) -> np.ndarray:
        for port, values in zip(ports, _order([port["name"] for port in ports], inputs), strict=True):
            interpreter.set_tensor(port["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def _tensorflow(path: Path) -> Run:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    patch = model.signatures["patch"]
    names = ("windows", "conditioning")
    return lambda inputs: patch(**{n: tf.constant(v) for n, v in zip(names, inputs, strict=False)})["logits"].numpy()


def _order(names: Sequence[str], inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Orders the inputs by a runtime's ports: windows, and conditioning where a name says so."""
    return [inputs[1] if "conditioning" in name else inputs[0] for name in names]


_OPENERS: dict[str, Callable[[Path], Run]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "tensorflow": _tensorflow,
}
