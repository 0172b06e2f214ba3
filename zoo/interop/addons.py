"""Loads models of Keras 2 and TensorFlow Addons 0.23 in Keras 3: rebuilds the graph, then assigns the weights.

TensorFlow Addons ended in 2024 and cannot be imported beside Keras 3. Neither it nor Keras 2 is needed here.
"""

import copy
import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from zoo.errors import to_line
from zoo.hub import safetensors_file
from zoo.interop import keras2
from zoo.interop.allowed_classes import LAYERS as ALLOWED
from zoo.interop.allowed_classes import forbidden_classes

Config = dict[str, Any]


@keras.saving.register_keras_serializable("zoo", "gelu_tanh")
def gelu_tanh(x: Any) -> Any:
    """Computes GELU by its tanh approximation, the default of TensorFlow Addons; that of Keras is exact."""
    return ops.gelu(x, approximate=True)


ACTIVATIONS = {
    "gelu": "zoo>gelu_tanh", "mish": "mish", "hardshrink": "hard_shrink", "softshrink": "soft_shrink",
    "tanhshrink": "tanh_shrink", "sparsemax": "sparsemax",
}  # fmt: skip
_GROUP = ("axis", "epsilon", "center", "scale", "beta_initializer", "gamma_initializer", "beta_regularizer",
          "gamma_regularizer", "beta_constraint", "gamma_constraint")  # fmt: skip


def load(path: str | os.PathLike, *, h5_gelu: str = "exact") -> keras.Model:
    """Loads a functional or Sequential model of Keras 2, layers of TensorFlow Addons among them.

    Instance and group normalisation, spectral normalisation and adaptive pooling become Keras' own layers. Weight
    normalisation becomes its inner layer with the normalised kernel: the same function, but training continues
    without the reparametrisation.

    Args:
        path: an .h5 file, or the folder of a SavedModel.
        h5_gelu: what an activation "gelu" means in an .h5 file, which does not name its library: "exact" as in Keras,
            or "tanh" as in TensorFlow Addons. A SavedModel and the layer GELU name it.

    Returns:
        A Keras 3 model, not compiled (`training` gives optimiser and loss).

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a layer that cannot be built or is not allowed (all are named), or weights that do not fit.
    """
    if h5_gelu not in ("exact", "tanh"):
        raise ValueError(f'h5_gelu must be "exact" or "tanh", got {h5_gelu!r}. See what the model was built with.')
    saved = keras2.read(path)
    try:
        # First without memory: a configuration may ask for any size, and its weights tell the right one.
        safetensors_file.without_values(lambda: _rebuild(saved, tanh=h5_gelu == "tanh").name)
        return _rebuild(saved, tanh=h5_gelu == "tanh")
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a configuration of any form meets Keras here
        raise ValueError(f"{path} has a configuration that builds nothing ({to_line(error)}). Save it anew.") from error


def _rebuild(saved: keras2.Saved, *, tanh: bool) -> keras.Model:
    """Builds the graph anew from layers of Keras 3, and assigns the weights."""
    config = copy.deepcopy(saved.config)
    old = config["config"]["layers"]
    _refuse([layer for layer in old if not _is_known(layer)], saved)
    new = [_translate(layer, gelu_tanh=tanh) for layer in old]
    _refuse([before for before, after in zip(old, new, strict=True) if not _can_build(after)], saved)
    config["config"]["layers"] = new
    for ends in ("input_layers", "output_layers"):
        if len(config["config"].get(ends, ())) == 1:  # Keras 3 would want, and give, a list of one
            config["config"][ends] = config["config"][ends][0]
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    model = kind.from_config(config["config"], custom_objects={"zoo>gelu_tanh": gelu_tanh})
    _carry_over(model, old, saved)
    return model


def _refuse(layers: list[Config], saved: keras2.Saved) -> None:
    if layers:
        names = ", ".join(f"{layer['config'].get('name')} ({layer['class_name']})" for layer in layers)
        raise ValueError(
            f"{saved.path} has layers that cannot be built in Keras 3: {names}. Replace them and save anew."
        )


def _is_known(layer: Config) -> bool:
    owner, _, name = layer["class_name"].rpartition(">")
    inner = layer["config"].get("layer")
    if not _has_counterpart(layer["config"].get("activation", "linear")) or (
        inner is not None and not _is_known(inner)
    ):
        return False
    if forbidden_classes({key: value for key, value in layer["config"].items() if key != "layer"}):
        return False
    return name in LAYERS if owner == "Addons" else not owner and name in ALLOWED and hasattr(keras.layers, name)


def _can_build(layer: Config) -> bool:
    """Returns whether Keras 3 takes the arguments of a layer: it has dropped some."""
    plain = json.loads(json.dumps(layer["config"]).replace("zoo>gelu_tanh", "gelu"))  # ours, known to be there
    try:
        getattr(keras.layers, layer["class_name"]).from_config(plain)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _activation_name(activation: Any) -> Any:
    """Returns the name of an activation; for TensorFlow Addons an .h5 file holds a dictionary, a SavedModel a name."""
    function = isinstance(activation, dict) and activation.get("class_name") == "function"
    return activation["config"] if function else activation


def _has_counterpart(activation: Any) -> bool:
    name = _activation_name(activation)
    if not isinstance(name, str):
        return False
    owner, _, plain = name.rpartition(">")
    if owner:
        return owner == "Addons" and plain in ACTIVATIONS
    return callable(getattr(keras.activations, plain, None)) or plain == "swish"


def _translate(layer: Config, *, gelu_tanh: bool) -> Config:
    """Translates the configuration of a layer to Keras 3; its inputs stay."""
    layer = copy.deepcopy(layer)
    owner, _, name = layer["class_name"].rpartition(">")
    config = {key: value for key, value in layer["config"].items() if key not in _unused_arguments(name)}
    if "batch_input_shape" in config:
        shape = config.pop("batch_input_shape")
        config.update({"batch_shape": shape} if name == "InputLayer" else {})
    config |= _rename_arguments(name, config)
    if "activation" in config:
        config["activation"] = _translate_activation(_activation_name(config["activation"]), gelu_tanh)
    if "layer" in config:
        inner = _translate(config["layer"], gelu_tanh=gelu_tanh)
        config["layer"] = {**inner, "module": "keras.layers", "registered_name": None}
    layer["config"] = config
    if owner == "Addons":
        layer["class_name"], layer["config"] = LAYERS[name](config)
        layer["config"] |= {key: config[key] for key in ("name", "trainable", "dtype") if key in config}
    for key in ("module", "registered_name"):
        layer.pop(key, None)
    return layer


def _rename_arguments(layer: str, config: Config) -> Config:
    """Returns the arguments that have another form in Keras 3, and removes their old names from `config`."""
    new: Config = {}
    if isinstance(config.get("dtype"), dict):  # a policy of mixed precision
        new["dtype"] = config["dtype"]["config"]["name"]
    if layer == "LeakyReLU" and "alpha" in config:
        new["negative_slope"] = config.pop("alpha")
    if layer == "BatchNormalization" and isinstance(config["axis"], list):
        (new["axis"],) = config["axis"]
    return new


def _translate_activation(name: str, gelu_tanh: bool) -> str:
    owner, _, plain = name.rpartition(">")
    return ACTIVATIONS[plain] if owner == "Addons" or (gelu_tanh and plain == "gelu") else plain


def _unused_arguments(layer: str) -> tuple[str, ...]:
    """Names the arguments that a layer of Keras 2 stored but never used, and those that Keras 3 no longer takes."""
    unused: tuple[str, ...] = ("ragged",)
    if layer.startswith(("DepthwiseConv", "SeparableConv")) or layer.endswith("Transpose"):
        unused += ("groups",)
    if layer.startswith("SpatialDropout"):
        unused += ("trainable", "noise_shape")
    if layer.startswith("SeparableConv"):
        unused += ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
    return unused


def _instance(config: Config) -> tuple[str, Config]:
    return "GroupNormalization", {"groups": -1, **{key: config[key] for key in _GROUP if key in config}}


def _group(config: Config) -> tuple[str, Config]:
    return "GroupNormalization", {"groups": config["groups"], **{key: config[key] for key in _GROUP if key in config}}


def _spectral(config: Config) -> tuple[str, Config]:
    return "SpectralNormalization", {key: config[key] for key in ("layer", "power_iterations")}


def _weight(config: Config) -> tuple[str, Config]:
    return config["layer"]["class_name"], config["layer"]["config"]


def _gelu(config: Config) -> tuple[str, Config]:
    return "Activation", {"activation": "zoo>gelu_tanh" if config.get("approximate", True) else "gelu"}


def _pooling(name: str) -> Callable[[Config], tuple[str, Config]]:
    return lambda config: (name, {key: config[key] for key in ("output_size", "data_format")})


LAYERS: dict[str, Callable[[Config], tuple[str, Config]]] = {
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "SpectralNormalization": _spectral,
    "WeightNormalization": _weight,
    "GELU": _gelu,
    **{
        name: _pooling(name)
        for kind in ("Average", "Max")
        for name in (f"Adaptive{kind}Pooling{d}D" for d in (1, 2, 3))
    },
}


def _carry_over(model: keras.Model, old: list[Config], saved: keras2.Saved) -> None:
    """Assigns the weights of every layer; a SavedModel numbers the layers that have some, an H5 file names them."""
    place, faults = 0, []
    for config in old:
        name = config["config"]["name"]
        layer = next((candidate for candidate in model.layers if candidate.name == name), None)
        if layer is None or not layer.weights:
            continue
        arrays = dict(saved.weights.get(str(place) if saved.path.is_dir() else name, {}))
        place += 1
        if config["class_name"] == "Addons>WeightNormalization":
            arrays = _unfold(arrays)
        faults += _assign(layer, arrays)
    if faults:
        raise ValueError(f"The weights in {saved.path} do not fit its network: {'; '.join(faults)}. Save it anew.")


def _unfold(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Computes the kernel from a magnitude `g` and a direction `v`: g v / |v|, one norm for each output channel."""
    arrays = dict(arrays)
    direction, magnitude = arrays.pop("v", arrays.get("kernel")), arrays.pop("g", None)
    if direction is None or magnitude is None:
        return arrays
    norm = np.sqrt((direction**2).sum(tuple(range(direction.ndim - 1)), keepdims=True))
    return {**arrays, "kernel": direction / np.maximum(norm, 1e-6) * magnitude}


_FORMERLY = {"vector_u": ("sn_u", "u"), "kernel": ("w", "depthwise_kernel")}


def _assign(layer: keras.Layer, arrays: dict[str, np.ndarray]) -> list[str]:
    faults = []
    for variable in layer.weights:
        names = (variable.name, *_FORMERLY.get(variable.name, ()))
        array = next((arrays[name] for name in names if name in arrays), None)
        if array is None:
            faults.append(f"{layer.name}/{variable.name} is missing")
        elif tuple(array.shape) != tuple(variable.shape):
            faults.append(f"{layer.name}/{variable.name} is {array.shape}, the layer has {tuple(variable.shape)}")
        else:
            variable.assign(array)
    return faults


@keras.saving.register_keras_serializable("zoo")
class SigmoidFocalCrossentropy(keras.losses.Loss):
    """Computes the focal loss of TensorFlow Addons: a sum over the last axis, where that of Keras is a mean.

    alpha_t (1 - p_t)^gamma BCE, with alpha_t = alpha where y = 1 and 1 - alpha where y = 0.
    Source: Lin et al., ICCV 2017, arXiv 1708.02002.
    """

    def __init__(
        self,
        from_logits: bool = False,
        alpha: float = 0.25,
        *,
        gamma: float = 2.0,
        reduction: str = "sum_over_batch_size",
        name: str = "sigmoid_focal_crossentropy",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.from_logits, self.alpha, self.gamma = from_logits, alpha, gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each sample: both (..., classes) to (...,)."""
        p = ops.sigmoid(y_pred) if self.from_logits else y_pred
        entropy = ops.binary_crossentropy(y_true, y_pred, from_logits=self.from_logits)
        right = y_true * p + (1 - y_true) * (1 - p)
        share = y_true * self.alpha + (1 - y_true) * (1 - self.alpha)
        return ops.sum(share * (1 - right) ** self.gamma * entropy, axis=-1)

    def get_config(self) -> Config:
        """Returns the arguments of `__init__`."""
        own = {"from_logits": self.from_logits, "alpha": self.alpha, "gamma": self.gamma}
        return {"name": self.name, "reduction": self.reduction, **own}


@keras.saving.register_keras_serializable("zoo")
class ContrastiveLoss(keras.losses.Loss):
    """Computes y d^2 + (1 - y) max(margin - d, 0)^2 of the distance d of a pair, with y = 1 where the two are alike.

    Source: Hadsell et al., CVPR 2006, 10.1109/CVPR.2006.100.
    """

    def __init__(
        self, margin: float = 1.0, *, reduction: str = "sum_over_batch_size", name: str = "contrastive_loss"
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = margin

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each pair, in the shape of the distances."""
        return y_true * ops.square(y_pred) + (1 - y_true) * ops.square(ops.maximum(self.margin - y_pred, 0.0))

    def get_config(self) -> Config:
        """Returns the arguments of `__init__`."""
        return {"name": self.name, "reduction": self.reduction, "margin": self.margin}


LOSSES: dict[str, Any] = {"SigmoidFocalCrossEntropy": SigmoidFocalCrossentropy, "ContrastiveLoss": ContrastiveLoss}
_RATES = ("learning_rate", "beta_1", "beta_2", "epsilon", "amsgrad")


def training(path: str | os.PathLike) -> tuple[keras.optimizers.Optimizer, Any]:
    """Loads optimiser and loss of a compiled .h5 model to continue training; moments start anew.

    At each step, AdamW of TensorFlow Addons subtracts `weight_decay` times the weight, that of Keras this times the
    learning rate: `weight_decay` is divided by the rate here, which gives the same numbers at a constant rate.
    MovingAverage becomes `use_ema` of the optimiser.

    Returns:
        For `model.compile(*training(path))`.

    Raises:
        ValueError: it was not compiled, or an optimiser or loss that has no counterpart.
    """
    read = keras2.read(path).training
    if not read.get("optimizer_config"):
        raise ValueError(f"{path} was saved without optimiser and loss. Call model.compile with your own.")
    try:
        return _optimizer(read["optimizer_config"]), _loss(read.get("loss"))
    except ValueError:
        raise
    except Exception as error:  # a configuration of any form meets Keras here
        raise ValueError(
            f"{path} has an optimiser or loss that cannot be built ({to_line(error)}). Compile with your own."
        ) from error


def _optimizer(description: Config) -> keras.optimizers.Optimizer:
    name, config = description["class_name"].rpartition(">")[2], description["config"]
    if name == "MovingAverage" and not config.get("dynamic_decay"):
        inner = _optimizer(config["optimizer"])
        return inner.from_config({**inner.get_config(), "use_ema": True, "ema_momentum": config["average_decay"]})
    known = {"Adam": keras.optimizers.Adam, "AdamW": keras.optimizers.AdamW}
    if name not in known or isinstance(config["learning_rate"], dict) or config.get("exclude_from_weight_decay"):
        raise ValueError(
            f"The optimiser {description['class_name']} with {config} has no counterpart. Compile with your own."
        )
    arguments = {key: config[key] for key in _RATES if key in config}
    if name == "AdamW":
        arguments["weight_decay"] = config["weight_decay"] / config["learning_rate"]
    return known[name](**arguments)


def _loss(description: Any) -> Any:
    if description is None or isinstance(description, str):
        return description
    if isinstance(description, list):
        return [_loss(item) for item in description]
    if "class_name" not in description:  # one loss for each output
        return {key: _loss(item) for key, item in description.items()}
    name, config = description["class_name"].rpartition(">")[2], dict(description["config"])
    if name not in LOSSES:
        kind = getattr(keras.losses, name, None)
        if not isinstance(kind, type) or not issubclass(kind, keras.losses.Loss) or forbidden_classes(config):
            raise ValueError(f"The loss {description['class_name']} has no counterpart. Compile with your own.")
        return keras.losses.deserialize({"class_name": name, "config": config})
    if config.get("reduction") == "auto":
        config["reduction"] = "sum_over_batch_size"
    return LOSSES[name].from_config(config)
