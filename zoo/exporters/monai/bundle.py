"""A trained model as a MONAI bundle: the network in PyTorch, and MONAI's own transforms and inferer around it.

The layers are listed in `models/graph.json`, their weights are in `models/model.npz` (nothing is pickled), and
`scripts/network.py` runs them. MONAI's transforms stand for the card's steps; its resampling and blending are not quite
zoo's, so that labels agree nearly, not wholly. What has no counterpart there is refused by name.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub.card import Card, Step
from zoo.inference.batch_norm_folding import fold_batch_norm
from zoo.inference.preprocessing import split
from zoo.models.parts.wiring import source_layers

PASSED = ("SizeCheck", "Dropout", "Folded")
ACTIVATIONS = ("linear", "relu", "elu", "sigmoid", "softplus", "tanh")


def write(model: keras.Model, card: Card, patch: Sequence[int], folder: Path) -> None:
    """Writes a bundle.

    Args:
        model: the trained network.
        card: what it takes and gives.
        patch: window in voxels.
        folder: exists and is empty.

    Raises:
        ValueError: a layer, a step, an activation or a kind of output that a bundle cannot hold, by name.
    """
    config = inference(card, patch)
    graph, arrays = layers(fold_batch_norm(model, precision="float32"), card)
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir()
    _json(folder / "configs" / "metadata.json", metadata(card, patch))
    _json(folder / "configs" / "inference.json", config)
    _json(folder / "models" / "graph.json", graph)
    content: dict[str, Any] = dict(arrays)
    np.savez(folder / "models" / "model.npz", **content)
    shutil.copyfile(Path(__file__).with_name("architecture.py"), folder / "scripts" / "network.py")
    files.write_whole(folder / "scripts" / "__init__.py", b'"""The network of this bundle."""\n')


def layers(model: keras.Model, card: Card) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The layers of a network as plain records, and their weights by layer and name, laid out as PyTorch wants them.

    Raises:
        ValueError: a kind of layer that has no counterpart, by name.
    """
    listed, arrays, config = [], {}, model.get_config()
    for entry in config["layers"]:
        if entry["class_name"] == "InputLayer":
            continue
        layer = model.get_layer(entry["name"])
        record = {"name": layer.name, "inputs": list(source_layers(entry["inbound_nodes"])), **_record(layer, card)}
        listed.append(record)
        for weight in layer.weights:
            arrays[f"{layer.name}.{weight.name}"] = _laid_out(layer, keras.ops.convert_to_numpy(weight))
    output = next(iter(_sources_of_outputs(config["output_layers"])))
    inputs = [tensor.name for tensor in model.inputs]
    return {"inputs": inputs, "output": output, "unknown": [0, 1] * len(card.input.tabular), "layers": listed}, arrays


def inference(card: Card, patch: Sequence[int]) -> dict[str, Any]:
    """`inference.json`: transforms, network, inferer, evaluator.

    Raises:
        ValueError: what has no counterpart in MONAI, by name.
    """
    names = [channel.name for channel in card.input.channels]
    after = _after(card)
    before = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        *_before(card),
    ]
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "data",
        "output_dir": "$@bundle_root + '/eval'",
        "channels": names,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))" if len(names) == 1 else
        "$[[case + '/' + name + '.nii.gz' for name in @channels] for case in sorted(glob.glob(@dataset_dir + '/*'))]",
        "network_def": {
            "_target_": "scripts.network.GraphNetwork",
            "folder": "$@bundle_root + '/models'",
            "conditioning": None,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': one} for one in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(patch),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def metadata(card: Card, patch: Sequence[int]) -> dict[str, Any]:
    """`metadata.json`."""
    names = {str(index): channel.name for index, channel in enumerate(card.input.channels)}
    labels = {str(index): label.name for index, label in card.output.labels.items()}
    values = {"type": "image", "format": "magnitude", "modality": "MR", "dtype": "float32"}
    return {
        "version": card.version,
        "changelog": card.changelog,
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "2.0.0",
        "required_packages_version": {"nibabel": "5.3.0", "pytorch-ignite": "0.4.11"},
        "name": card.name,
        "task": card.task,
        "description": card.description,
        "authors": "zoo3d",
        "copyright": f"Weights: {card.licence}",
        "intended_use": card.intended_use,
        "references": [f"doi {doi}" for doi in card.references],
        "network_data_format": {
            "inputs": {
                "image": {
                    **values,
                    "num_channels": len(names),
                    "spatial_shape": list(patch),
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": names,
                }
            },
            "outputs": {
                "pred": {
                    **values,
                    "format": "logits",
                    "num_channels": len(labels),
                    "spatial_shape": list(patch),
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": labels,
                }
            },
        },
    }


def _record(layer: keras.layers.Layer, card: Card) -> dict[str, Any]:
    kind = type(layer).__name__
    if kind in PASSED:
        return {"kind": "pass"}
    if kind not in _KINDS:
        raise unknown_choice(f"layer that a MONAI bundle of {card.name} can hold:", kind, [*_KINDS, *PASSED])
    if kind != "Activation" and getattr(layer, "activation", None) not in (None, keras.activations.linear):
        raise ValueError(
            f"A MONAI bundle cannot hold the activation inside {layer.name!r}; make it a layer of its own."
        )
    return _KINDS[kind](layer)


def _activation(layer: Any) -> dict[str, Any]:
    name = keras.activations.serialize(layer.activation)
    if name not in ACTIVATIONS:
        raise unknown_choice("activation that a MONAI bundle can hold:", name, ACTIVATIONS)
    return {"kind": "activation", "function": name}


_KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Conv3D": lambda one: {
        "kind": "conv", "strides": one.strides, "dilation": one.dilation_rate, "padding": one.padding
    },
    "Conv3DTranspose": lambda one: {"kind": "up", "strides": one.strides},
    "MaxPooling3D": lambda one: {"kind": "pool", "size": one.pool_size, "strides": one.strides},
    "UpSampling3D": lambda one: {"kind": "repeat", "size": one.size},
    "GroupNormalization": lambda one: {"kind": "group_norm", "groups": one.groups, "epsilon": one.epsilon},
    "BatchNormalization": lambda one: {"kind": "batch_norm", "epsilon": one.epsilon},
    "Activation": _activation,
    "LeakyReLU": lambda one: {"kind": "activation", "function": "leaky_relu", "slope": float(one.negative_slope)},
    "PReLU": lambda one: {"kind": "activation", "function": "prelu"},
    "Concatenate": lambda one: {"kind": "join"},
    "Add": lambda one: {"kind": "add"},
    "CropLike": lambda one: {"kind": "crop", "keep": one.keep},
    "FiLM": lambda one: {"kind": "film"},
}  # fmt: skip


def _laid_out(layer: Any, array: np.ndarray) -> np.ndarray:
    """Kernels of convolutions with channels first; both kinds end up as (filters, inputs) and (inputs, filters)."""
    return np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2)) if array.ndim == 5 else array


def _before(card: Card) -> Iterator[dict[str, Any]]:
    """The card's grid and intensity steps as MONAI's transforms."""
    grid, rest = split(card.preprocessing)
    if card.input.spacing_mm is not None and not any(step.name == "resample" for step in grid):
        grid = [Step("resample", {"spacing_mm": card.input.spacing_mm}), *grid]
    for step in grid:
        if step.name == "resample":
            spacing = np.broadcast_to(step.parameters["spacing_mm"], 3).tolist()
            yield {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"}
        else:
            shape = list(step.parameters["shape"])
            yield {"_target_": "Resized", "keys": "image", "spatial_size": shape, "mode": "trilinear"}
    for step in rest:
        settings = dict(step.parameters)
        if step.name not in _INTENSITY or settings.get("channels"):
            told = f"{step.name} of some channels" if settings.get("channels") else step.name
            raise unknown_choice(
                f"step that a MONAI bundle of {card.name} can hold before the network:", told, _INTENSITY
            )
        yield {"keys": "image", **_INTENSITY[step.name](settings)}


def _percentiles(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("mask"):
        raise ValueError("A MONAI bundle cannot hold clip_percentiles with a mask. Take another format.")
    bounds = {"lower": given.get("low", 0.5), "upper": given.get("high", 99.5), "b_min": None, "b_max": None}
    return {"_target_": "ScaleIntensityRangePercentilesd", **bounds, "clip": True, "channel_wise": True}


def _span(given: dict[str, Any]) -> dict[str, Any]:
    if "low" in given and "high" in given:
        bounds = {"a_min": given["low"], "a_max": given["high"], "b_min": 0.0, "b_max": 1.0}
        return {"_target_": "ScaleIntensityRanged", **bounds, "clip": False}
    return {"_target_": "ScaleIntensityd", "minv": 0.0, "maxv": 1.0, "channel_wise": True}


def _clip(given: dict[str, Any]) -> dict[str, Any]:
    ends = {"a_min": given["low"], "a_max": given["high"], "b_min": given["low"], "b_max": given["high"]}
    return {"_target_": "ScaleIntensityRanged", **ends, "clip": True}


_INTENSITY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "clip": _clip,
    "clip_percentiles": _percentiles,
    "range": _span,
    "maximum": lambda given: {
        "_target_": "Lambdad", "func": "$lambda x: x / x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)"
    },
    "z_score": lambda given: {
        "_target_": "NormalizeIntensityd", "nonzero": given.get("mask") is not None, "channel_wise": True
    },
}  # fmt: skip


def _after(card: Card) -> list[dict[str, Any]]:
    """Activation, back to the image's grid, labels as the card names them, and a file."""
    given = card.output
    for step in card.postprocessing:
        raise unknown_choice(
            f"step that a MONAI bundle of {card.name} can hold after the network:", step.name, ["none"]
        )
    if given.kind != "segmentation" or given.activation not in ("softmax", "sigmoid"):
        raise ValueError(
            f"A MONAI bundle here holds segmentations by softmax or sigmoid; {card.name} gives {given.kind} by "
            f"{given.activation}. Take another format."
        )
    values = [given.labels[index].value for index in sorted(given.labels)]
    single = given.activation == "sigmoid"
    if single and len(values) > 1:
        raise ValueError(f"A MONAI bundle cannot hold a sigmoid over {len(values)} labels. Take another format.")
    pick = {"threshold": 0.5} if single else {"argmax": True}
    pairs = {
        "orig_labels": [0, 1] if single else list(range(len(values))),
        "target_labels": ([0] if single else []) + values,
    }
    return [
        {"_target_": "Activationsd", "keys": "pred", given.activation: True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
         "nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", **pick},
        {"_target_": "MapLabelValued", "keys": "pred", **pairs},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
         "output_postfix": card.name.split(".")[1]},
    ]  # fmt: skip


def _sources_of_outputs(nested: Any) -> list[str]:
    """The layer of the first output."""
    return re.findall(r"'([^']+)'", str(nested))[:1]


def _json(path: Path, content: dict[str, Any]) -> None:
    files.write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
