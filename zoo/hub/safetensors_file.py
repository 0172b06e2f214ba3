"""Reads and writes the weights of a Keras model as safetensors, keyed by variable path and never by position."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo import errors, files
from zoo.arrays import first_not_finite
from zoo.hub import card
from zoo.hub.card import Weights

if TYPE_CHECKING:
    import keras
    import numpy as np

    Arrays = dict[str, np.ndarray]
    Shapes = dict[str, tuple[int, ...]]

Result = TypeVar("Result")
_MOST_FAULTS = 20  # in one error: a network has hundreds of weights


def variables(model: "keras.Model") -> dict[str, Any]:
    """Returns variables by a path that depends on layer names alone, not on the model's name or the backend.

    A nested model adds its own name; states of random generators and of metrics are no weights.

    Raises:
        ValueError: two variables share a path, so that a file could not tell them apart.
    """
    named: dict[str, Any] = {}
    seen: set[int] = set()
    for path, variable in _walk_variables(model, ""):
        if id(variable) in seen:
            continue
        if path in named:
            raise ValueError(f"Two weights of {model.name!r} are called {path!r}. Give each layer its own name.")
        seen.add(id(variable))
        named[path] = variable
    return named


def all_layers(model: "keras.Model") -> list[Any]:
    """Returns every layer, those of nested models in place of the models."""
    import keras

    groups = [all_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers]
    return [layer for group in groups for layer in group]


def _walk_variables(model: "keras.Model", prefix: str) -> Iterator[tuple[str, Any]]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _walk_variables(layer, f"{prefix}{layer.name}/")
        else:
            for variable in layer.weights:
                yield f"{prefix}{_path_from_layer(layer.name, variable.path)}", variable
    for variable in model.weights:  # those that a subclass holds outside its layers
        yield f"{prefix}{_path_from_layer(model.name, variable.path).split('/', 1)[-1]}", variable


def _path_from_layer(layer: str, path: str) -> str:
    """Returns the part of a variable's path from its layer on: what comes before varies with how it was built."""
    parts = path.split("/")
    return "/".join(parts[parts.index(layer) :] if layer in parts else [layer, *parts])


def write_weights(model: "keras.Model", file: str | os.PathLike, dtype: str = "float32") -> Weights:
    """Writes all weights as safetensors, atomically, keyed by variable path.

    Args:
        model: a built model.
        file: ends in `.safetensors`; replaced where it exists.
        dtype: "float32" or "float16", for floating-point weights; whole numbers keep their own.

    Returns:
        File name, bytes, sha256 and dtype, as a card holds them.
    """
    import numpy as np
    import safetensors.numpy

    if dtype not in card.DTYPES:
        raise errors.unknown_choice("dtype", dtype, card.DTYPES)
    path = Path(file)
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, for the caller to see
        stored = {
            key: array.astype(dtype) if array.dtype == "float32" else array for key, array in arrays(model).items()
        }
    content = safetensors.numpy.save(stored)
    files.write_whole(path, content)
    return Weights(path.name, len(content), hashlib.sha256(content).hexdigest(), dtype)


def arrays(model: "keras.Model") -> "Arrays":
    """Returns copies of all weights by variable path: float32, or their own dtype where they hold whole numbers."""
    import keras
    import numpy as np

    copies = {}
    for path, variable in variables(model).items():
        dtype = "float32" if keras.backend.is_float_dtype(variable.dtype) else variable.dtype
        tensor = keras.ops.cast(keras.ops.copy(variable), dtype)  # a tensor: NumPy warns of TensorFlow variables
        copies[path] = np.array(keras.ops.convert_to_numpy(tensor))
    return copies


def read_weights(
    model: "keras.Model", file: str | os.PathLike, *, sha256: str | None = None, finite: bool = True
) -> None:
    """Reads weights into a model by variable path; nothing is assigned unless all names, shapes and numbers are good.

    Args:
        model: a built model.
        file: safetensors, as `write_weights` makes it.
        sha256: what the file must have, in hexadecimal; None leaves it unchecked.
        finite: whether a weight that is NaN or infinite is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not safetensors, another sha256, names and shapes that differ (all are named), or a weight that is
            not finite.
    """
    stored = _read_arrays(Path(file), sha256)
    named = variables(model)
    _compare(file, model.name, _shapes_of(model), {path: tuple(array.shape) for path, array in stored.items()})
    if finite:
        _check_finite(file, stored)
    for path, variable in named.items():
        variable.assign(stored[path])


def network_shapes(build: "Callable[[], keras.Model]") -> "Shapes":
    """Returns the shape of each weight of a network by its path, without the memory that its weights would take.

    Args:
        build: builds the network.

    Raises:
        Exception: whatever `build` raises.

    Example:
        >>> from zoo.models.unet3d import unet3d
        >>> network_shapes(lambda: unet3d(filters=(4, 6)))["logits/kernel"]
        (1, 1, 1, 4, 2)
    """
    return without_values(lambda: _shapes_of(build()))


def without_values(function: "Callable[[], Result]") -> "Result":
    """Returns what a function returns where the variables that it makes have shapes and take no memory.

    Args:
        function: called in a thread of its own, for Keras keeps a list of such variables for each thread, and gives
            them values later; no variable may leave it.

    Raises:
        Exception: whatever the function raises.
    """

    def call() -> "Result":
        import keras

        with keras.StatelessScope(initialize_variables=False):
            return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def _shapes_of(model: "keras.Model") -> "Shapes":
    return {path: tuple(variable.shape) for path, variable in variables(model).items()}


def check_fit(file: str | os.PathLike, name: str, shapes: "Shapes") -> None:
    """Checks by the header of a file that it holds the weights of a network, before any is read.

    Args:
        file: safetensors, as `write_weights` makes it.
        name: of the network.
        shapes: of its weights, as `network_shapes` returns them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not safetensors, or names and shapes that differ; all are named.
    """
    _compare(file, name, shapes, _read_shapes(Path(file)))


def _compare(file: str | os.PathLike, name: str, shapes: "Shapes", stored: "Shapes") -> None:
    faults = _list_differences(shapes, stored)
    if faults:
        more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        listed = "; ".join(faults[:_MOST_FAULTS] + more)
        raise ValueError(f"{file} does not fit {name!r}: {listed}. Build the model that wrote it.")


def _read_shapes(file: Path) -> "Shapes":
    """Reads the header of a file alone: the shape of each weight by its path."""
    import safetensors

    if not file.is_file():
        raise FileNotFoundError(f"There are no weights at {file}. Fetch or save the trained model anew.")
    try:
        with safetensors.safe_open(file, framework="numpy") as stored:
            return {path: tuple(stored.get_slice(path).get_shape()) for path in stored.keys()}  # noqa: SIM118 - no dict
    except Exception as error:  # its parser is Rust's, and has errors of its own
        raise _not_safetensors(file, error) from error


def _not_safetensors(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is not safetensors ({errors.to_line(error)}). Fetch or save the trained model anew.")


def _read_arrays(file: Path, sha256: str | None) -> "Arrays":
    import safetensors.numpy

    if not file.is_file():
        raise FileNotFoundError(f"There are no weights at {file}. Fetch or save the trained model anew.")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise ValueError(f"{file} has sha256 {digest}, the card says {sha256}. Delete the folder and fetch it anew.")
    try:
        return safetensors.numpy.load(content)
    except Exception as error:  # its parser is Rust's, and has errors of its own
        raise _not_safetensors(file, error) from error


def _check_finite(file: str | os.PathLike, stored: "Arrays") -> None:
    """Refuses NaN: the largest of several NaN is the first, so that a network of NaN would find nothing anywhere."""
    for path, array in sorted(stored.items()):
        place = first_not_finite(array)
        if place is not None:
            raise ValueError(
                f"{file} holds {array[place]} in {path} at {list(place)}: no result would mean anything. Fetch the "
                "model anew, or train and save it anew (in float32, where float16 could not hold its weights)."
            )


def _list_differences(shapes: "Shapes", stored: "Shapes") -> list[str]:
    faults = [f"{path} is missing in the file" for path in shapes if path not in stored]
    faults += [f"{path} is not in the model" for path in stored if path not in shapes]
    faults += [
        f"{path} is {stored[path]} in the file, {shape} in the model"
        for path, shape in shapes.items()
        if path in stored and stored[path] != shape
    ]
    return faults


def count_weights(model: "keras.Model") -> int:
    """Returns the number of weights, trained or not, shared ones once."""
    return sum(array.size for array in arrays(model).values())
