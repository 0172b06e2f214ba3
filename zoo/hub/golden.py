"""Draws, stores and compares the golden output of a trained model: that of a small seeded input, in float32."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.arrays import Entry, read_npz
from zoo.hub import safetensors_file
from zoo.hub.card import Card, Golden
from zoo.hub.download import sha256

if TYPE_CHECKING:
    import keras
    import numpy as np

    Arrays = dict[str, np.ndarray]
    Inputs = list[np.ndarray]

FILE = "golden.npz"
TOLERANCE = 1e-4
_LOW_PRECISION = 0.1
_MOST_BYTES = 1 << 28
_SEED = 20260101


@contextlib.contextmanager
def float32_on_cpu() -> Iterator[None]:
    """Builds and runs networks in float32 on the CPU, so that a golden output is the same everywhere."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        with keras.device("cpu:0"):
            yield
    finally:
        keras.config.set_dtype_policy(before)


def draw_inputs(model: "keras.Model", card: Card) -> "Inputs":
    """Draws seeded normal noise for each input; open sizes are small, and differ where that keeps the file small.

    Args:
        model: a built model.
        card: its divisor fixes the sizes.

    Returns:
        Float32 arrays `(1, x, y, z, channels)`, or `(1, n)` where an input is a vector.
    """
    import numpy as np

    divisor = card.input.divisor
    more = (0, 1, 2) if max(divisor) <= 8 else (0, 0, 1)
    sizes = [by * (-(-16 // by) + extra) for by, extra in zip(divisor, more, strict=True)]
    random = np.random.default_rng(_SEED)
    shapes = [
        [own or size for own, size in zip(tensor.shape[1:], [*sizes, 1], strict=False)] for tensor in model.inputs
    ]
    return [random.standard_normal((1, *shape)).astype("float32") for shape in shapes]


def run(model: "keras.Model", inputs: "Inputs") -> "Arrays":
    """Returns the network's outputs in inference mode, float32, named output_0, output_1, ... in Keras' order."""
    import keras

    tensors = [keras.ops.convert_to_tensor(array, "float32") for array in inputs]
    outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0], training=False))
    results = [keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")) for output in outputs]
    return {f"output_{i}": array for i, array in enumerate(results)}


def largest_difference(outputs: "Arrays", expected: "Arrays") -> float:
    """Returns the largest difference of all outputs, as a fraction of their largest expected value; NaN for NaN.

    Raises:
        ValueError: number or shapes of the outputs differ.

    Example:
        >>> import numpy as np
        >>> largest_difference({"output_0": np.array([1.0, 4.0])}, {"output_0": np.array([2.0, 4.0])})
        0.25
    """
    import numpy as np

    shapes, expected_shapes = ([array.shape for array in side.values()] for side in (outputs, expected))
    if shapes != expected_shapes:
        raise ValueError(f"the network's outputs are {shapes}, the golden ones {expected_shapes}")
    with np.errstate(invalid="ignore"):
        parts = [np.abs(outputs[key] - expected[key]).max() / (np.abs(expected[key]).max() or 1) for key in expected]
    return float(np.max(parts))


def check_same_function(model: "keras.Model", twin: "keras.Model", inputs: "Inputs") -> None:
    """Checks that `twin`, built from the card, reproduces the output of `model`.

    Raises:
        ValueError: the outputs differ by more than 1e-4 of the largest value (0.1 where `model` computes in less
            than float32).
    """
    layers = safetensors_file.all_layers(model)
    exact = all(layer.compute_dtype in (None, "float32") for layer in layers)
    limit = TOLERANCE if exact else _LOW_PRECISION
    worst = largest_difference(run(model, inputs), run(twin, inputs))
    if not worst <= limit:
        raise ValueError(
            f"The model's output differs by {worst:.2g} of its largest value from that of the card's builder and "
            f"arguments, over {limit:g}. Put the arguments that built the model on the card."
        )


def write(path: Path, inputs: "Inputs", outputs: "Arrays") -> Golden:
    """Writes inputs and outputs as a compressed npz without pickle; refuses NaN and Inf.

    Raises:
        ValueError: an output is not finite.
    """
    import numpy as np

    bad = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{', '.join(bad)} of the network is NaN or Inf. Train anew, or pass dtype='float32'.")
    named = {f"input_{i}": np.asarray(array, "float32") for i, array in enumerate(inputs)}
    np.savez_compressed(path, allow_pickle=False, **named, **outputs)
    return Golden(path.name, path.stat().st_size, sha256(path))


def read(path: Path) -> "tuple[Inputs, Arrays]":
    """Reads the inputs in order and the outputs by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such an npz.
    """
    numbers = Entry("f")
    families, first = {"input_": numbers, "output_": numbers}, {"input_0": numbers, "output_0": numbers}
    try:
        arrays = read_npz(path, first, families=families, most_bytes=_MOST_BYTES)
        outputs = {name: array for name, array in arrays.items() if name.startswith("output_")}
        names = [f"input_{i}" for i in range(len(arrays) - len(outputs))]
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"{', '.join(missing)} is missing")
    except ValueError as error:
        raise ValueError(f"{path} is not a golden npz: {error}. Fetch or save the model anew.") from error
    return [arrays[name] for name in names], outputs
