"""Turns a Keras model into a function from window to logits: folded, in the chosen precision, compiled once a shape."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from zoo.inference.folding import fold_batch_norm
from zoo.inference.precision import policy, use_jit

Forward = Callable[[np.ndarray], np.ndarray]


def prepare(
    model: keras.Model,
    *,
    precision: str = "float32",
    jit: bool | str = "auto",
    conditioning: Sequence[float] | None = None,
) -> Forward:
    """Makes a network ready for many windows.

    Args:
        model: a Keras model whose first input is the volume; of several outputs the first counts.
        precision: "float32", "bfloat16" or "auto" (bfloat16 where the hardware has it).
        jit: "auto" (XLA on GPU and TPU, a plain graph on a CPU), True or False.
        conditioning: the tabular values of a network that takes them.

    Returns:
        A function from (batch, x, y, z, channels) float32 to (batch, x, y, z, num_classes) float32; each new
        shape compiles once.

    Raises:
        ValueError: an unknown precision or jit, bfloat16 for a model that is not functional, or tabular values
            where the network takes none, or the reverse.
    """
    values = _conditioning(model, conditioning)
    copy = fold_batch_norm(model, precision=policy(precision))
    if copy is model and policy(precision) != "float32":
        raise ValueError(
            f"{model.name!r} is no functional model, so it cannot be copied in {precision}. "
            'Build it so (keras.Model(inputs, outputs)), or pass precision="float32".'
        )

    def run(windows):
        if values is None:
            given = windows
        else:
            given = [windows, keras.ops.repeat(keras.ops.convert_to_tensor(values), windows.shape[0], axis=0)]
        return keras.ops.cast(keras.tree.flatten(copy(given, training=False))[0], "float32")

    compiled = _compile(run, use_jit(jit))
    return lambda windows: keras.ops.convert_to_numpy(compiled(keras.ops.convert_to_tensor(windows)))


def _conditioning(model: keras.Model, values: Sequence[float] | None) -> np.ndarray | None:
    wanted = [int(one.shape[-1]) for one in (model.inputs or [])[1:]]
    given = [] if values is None else [len(values)]
    if wanted != given:
        raise ValueError(
            f"{model.name!r} takes {sum(wanted)} tabular values beside the volume, got {sum(given)}. "
            f"Pass conditioning with {sum(wanted)} numbers." if wanted else
            f"{model.name!r} takes no tabular values, got {sum(given)}. Leave conditioning out."
        )  # fmt: skip
    return None if values is None else np.asarray([values], np.float32)


def _compile(run: Callable, jit: bool) -> Callable:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(run, jit_compile=jit, reduce_retracing=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(run)
    return run
