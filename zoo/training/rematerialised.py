"""A network that trains in less memory: what lies inside a stage is computed again for its gradient."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from zoo.models.parts import norms

LONGEST = 8  # layers of a chain: its inside is all that the backward pass holds beside the ends of chains


class Rematerialised(keras.Model):
    """A functional model whose chains of layers keep their input alone for the gradient.

    A chain is a run of layers that each read the one before and nothing else: a stage of convolutions with norm and
    activation. Layers are shared with the model that it is made of, so weights and their names are the same; outside
    training it runs as that model does. A step takes longer, for most of the forward pass is run twice.

    Source: Chen et al., 2016, arXiv 1604.06174.
    """

    def call(self, inputs, training=None, mask=None):
        """Runs the graph; in training, each chain at its first layer, and its other layers pass their input on."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        heads, inside = {}, set()
        for chain in find_chains(self):
            heads[chain[0].name] = _recomputed(chain)
            inside |= {layer.name for layer in chain[1:]}

        def choose(layer: keras.Operation) -> Callable:
            if layer.name in inside:
                return lambda x, **_: x
            return heads.get(layer.name) or _in_training(layer)

        return self._run_through_graph(keras.tree.flatten(inputs), operation_fn=choose)


def rematerialise(model: keras.Model) -> keras.Model:
    """Returns a network of the same layers, weights and outputs that trains in less memory.

    Args:
        model: a functional model, not compiled yet.

    Raises:
        ValueError: it is no functional model, or has no chain of layers.

    Example:
        >>> inputs = keras.Input((4, 4, 4, 1))
        >>> outputs = keras.layers.ReLU()(keras.layers.Conv3D(2, 3)(inputs))
        >>> rematerialise(keras.Model(inputs, outputs)).output_shape
        (None, 2, 2, 2, 2)
    """
    if not hasattr(model, "operations") or isinstance(model, keras.Sequential) or not find_chains(model):
        raise ValueError(
            f'memory="low" computes chains of layers again, and {model.name!r} has none. Leave it out, or build the '
            "network by the functional API."
        )
    return Rematerialised(model.input, model.output, name=model.name)


def find_chains(model: keras.Model) -> list[list[keras.layers.Layer]]:
    """Finds the runs of two layers and more, in which each reads one tensor, that of the layer before, alone.

    A layer that draws random numbers is in none: it would draw others the second time.
    """
    readers: dict[int, int] = {}
    nodes = [(layer, layer._inbound_nodes) for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    for _, calls in nodes:
        for tensor in (tensor for node in calls for tensor in node.input_tensors):
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for tensor in model.outputs:
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    chains: list[list[keras.layers.Layer]] = []
    ends: dict[int, list[keras.layers.Layer]] = {}  # last tensor of a chain -> the chain
    for layer, calls in nodes:
        if len(calls) != 1 or not _is_repeatable(layer) or not _reads_one_tensor(calls[0]):
            continue
        (tensor,) = calls[0].input_tensors
        chain = ends.pop(id(tensor), None) if readers[id(tensor)] == 1 else None
        if chain is None or len(chain) == LONGEST:
            chain = []
            chains.append(chain)
        chain.append(layer)
        ends[id(calls[0].outputs[0])] = chain
    return [chain for chain in chains if len(chain) > 1]


def _reads_one_tensor(call: Any) -> bool:
    """Returns whether a call has nothing but its input; Keras adds the names of options that are None."""
    arguments = call.arguments
    return len(call.input_tensors) == len(arguments.args) == 1 and not any(arguments.kwargs.values())


def _is_repeatable(layer: keras.layers.Layer) -> bool:
    """Returns whether a second call gives the same and leaves nothing behind; our batch norm knows a replay."""
    if isinstance(layer, norms.BatchNormalization):
        return True
    return not (layer.non_trainable_variables and layer.trainable) and not isinstance(layer, keras.Model)


def _in_training(layer: keras.Operation) -> Callable:
    """Returns the layer's call in training."""
    takes = "training" in getattr(layer, "_call_context_args", {})
    return lambda *args, **kwargs: layer(*args, **(kwargs | {"training": True} if takes else kwargs))


def _recomputed(chain: Sequence[keras.layers.Layer]) -> Callable:
    """Returns the call of a chain, whose gradient runs it again."""
    calls = [_in_training(layer) for layer in chain]
    runs: list[None] = []

    def run(x: Any) -> Any:
        with norms.replaying() if runs else contextlib.nullcontext():
            runs.append(None)
            for call in calls:
                x = call(x)
            return x

    recomputed = tf.recompute_grad(run)
    return lambda x, **_: recomputed(x)  # of options that are None; a graph takes no names
