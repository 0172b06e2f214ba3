"""Writes a MONAI bundle: the network in PyTorch, and MONAI's own transforms and inferer around it.

The layers are listed in `models/graph.json`, their weights are in `models/model.npz` (nothing is pickled), and
`scripts/network.py` runs them. MONAI's transforms stand for the card's steps; its resampling and blending are not quite
zoo's, so that labels agree closely, not exactly. A layer or step without a counterpart is refused by name.
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

IDENTITY_LAYERS = ("SizeCheck", "Dropout", "Folded")
ACTIVATIONS = ("linear", "relu", "elu", "sigmoid", "softplus", "tanh")


def write(model: keras.Model, card: Card, patch: Sequence[int], folder: Path) -> None:
    """Writes a bundle.

    Args:
        model: the trained network.
        card: its input, output and steps.
        patch: window in voxels.
        folder: an empty folder.

    Raises:
        ValueError: a layer, a step, an activation or a kind of output that a bundle cannot hold, by name.
    """
    config = inference_config(card, patch)
    graph, arrays = list_layers(fold_batch_norm(model, precision="float32"), card)
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir()
    _write_json(folder / "configs" / "metadata.json", metadata(card, patch))
    _write_json(folder / "configs" / "inference.json", config)
    _write_json(folder / "models" / "graph.json", graph)
    content: dict[str, Any] = dict(arrays)
    np.savez(folder / "models" / "model.npz", **content)
    shutil.copyfile(Path(__file__).with_name("architecture.py"), folder / "scripts" / "network.py")
    files.write_whole(folder / "scripts" / "__init__.py", b'"""The network of this bundle."""\n')


def list_layers(model: keras.Model, card: Card) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Lists the layers of a network as plain records, and their weights in PyTorch's layout as "layer.weight".

    Raises:
        ValueError: a kind of layer that has no counterpart; it is named.
    """
    records, arrays, config = [], {}, model.get_config()
    for entry in config["layers"]:
        if entry["class_name"] == "InputLayer":
            continue
        layer = model.get_layer(entry["name"])
        inputs = list(source_layers(entry["inbound_nodes"]))
        records.append({"name": layer.name, "inputs": inputs, **_layer_record(layer, card)})
        for weight in layer.weights:
            arrays[f"{layer.name}.{weight.name}"] = _to_torch_layout(keras.ops.convert_to_numpy(weight))
    output = _first_output_layer(config["output_layers"])
    inputs = [tensor.name for tensor in model.inputs]
    return {"inputs": inputs, "output": output, "unknown": [0, 1] * len(card.input.tabular), "layers": records}, arrays


def inference_config(card: Card, patch: Sequence[int]) -> dict[str, Any]:
    """Returns `inference.json`: transforms, network, inferer, evaluator.

    Raises:
        ValueError: a step or output without a counterpart in MONAI; it is named.
    """
    names = [channel.name for channel in card.input.channels]
    after = _transforms_after(card)
    before = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        *_transforms_before(card),
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
            "data": "$[{'image': path} for path in @datalist]",
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
    """Returns `metadata.json`."""
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


def _layer_record(layer: keras.layers.Layer, card: Card) -> dict[str, Any]:
    kind = type(layer).__name__
    if kind in IDENTITY_LAYERS:
        return {"kind": "pass"}
    if kind not in _KINDS:
        raise unknown_choice(f"layer that a MONAI bundle of {card.name} can hold:", kind, [*_KINDS, *IDENTITY_LAYERS])
    if kind != "Activation" and getattr(layer, "activation", None) not in (None, keras.activations.linear):
        raise ValueError(
            f"A MONAI bundle cannot hold the activation inside {layer.name!r}; make it a layer of its own."
        )
    return _KINDS[kind](layer)


def _activation_record(layer: Any) -> dict[str, Any]:
    name = keras.activations.serialize(layer.activation)
    if name not in ACTIVATIONS:
        raise unknown_choice("activation that a MONAI bundle can hold:", name, ACTIVATIONS)
    return {"kind": "activation", "function": name}


_KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Conv3D": lambda layer: {
        "kind": "conv", "strides": layer.strides, "dilation": layer.dilation_rate, "padding": layer.padding
    },
    "Conv3DTranspose": lambda layer: {"kind": "up", "strides": layer.strides},
    "MaxPooling3D": lambda layer: {"kind": "pool", "size": layer.pool_size, "strides": layer.strides},
    "UpSampling3D": lambda layer: {"kind": "repeat", "size": layer.size},
    "GroupNormalization": lambda layer: {"kind": "group_norm", "groups": layer.groups, "epsilon": layer.epsilon},
    "BatchNormalization": lambda layer: {"kind": "batch_norm", "epsilon": layer.epsilon},
    "Activation": _activation_record,
    "LeakyReLU": lambda layer: {"kind": "activation", "function": "leaky_relu", "slope": float(layer.negative_slope)},
    "PReLU": lambda layer: {"kind": "activation", "function": "prelu"},
    "Concatenate": lambda layer: {"kind": "join"},
    "Add": lambda layer: {"kind": "add"},
    "CropLike": lambda layer: {"kind": "crop", "keep": layer.keep},
    "FiLM": lambda layer: {"kind": "film"},
}  # fmt: skip


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    """Puts channels of kernels first: (filters, inputs), of a transposed convolution (inputs, filters)."""
    return np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2)) if array.ndim == 5 else array


def _transforms_before(card: Card) -> Iterator[dict[str, Any]]:
    """Yields the card's grid and intensity steps as MONAI's transforms."""
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
            step_name = f"{step.name} of some channels" if settings.get("channels") else step.name
            raise unknown_choice(
                f"step that a MONAI bundle of {card.name} can hold before the network:", step_name, _INTENSITY
            )
        yield {"keys": "image", **_INTENSITY[step.name](settings)}


def _percentile_transform(settings: dict[str, Any]) -> dict[str, Any]:
    if settings.get("mask"):
        raise ValueError("A MONAI bundle cannot hold clip_percentiles with a mask. Take another format.")
    bounds = {"lower": settings.get("low", 0.5), "upper": settings.get("high", 99.5), "b_min": None, "b_max": None}
    return {"_target_": "ScaleIntensityRangePercentilesd", **bounds, "clip": True, "channel_wise": True}


def _range_transform(settings: dict[str, Any]) -> dict[str, Any]:
    if "low" in settings and "high" in settings:
        bounds = {"a_min": settings["low"], "a_max": settings["high"], "b_min": 0.0, "b_max": 1.0}
        return {"_target_": "ScaleIntensityRanged", **bounds, "clip": False}
    return {"_target_": "ScaleIntensityd", "minv": 0.0, "maxv": 1.0, "channel_wise": True}


def _clip_transform(settings: dict[str, Any]) -> dict[str, Any]:
    low, high = settings["low"], settings["high"]
    ends = {"a_min": low, "a_max": high, "b_min": low, "b_max": high}
    return {"_target_": "ScaleIntensityRanged", **ends, "clip": True}


_INTENSITY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "clip": _clip_transform,
    "clip_percentiles": _percentile_transform,
    "range": _range_transform,
    "maximum": lambda settings: {  # without the search for air and spikes: MONAI has no step for it
        "_target_": "Lambdad", "func": "$lambda x: x / x.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)"
    },
    "z_score": lambda settings: {
        "_target_": "NormalizeIntensityd", "nonzero": settings.get("mask") is not None, "channel_wise": True
    },
}  # fmt: skip


def _transforms_after(card: Card) -> list[dict[str, Any]]:
    """Returns the transforms after the network: activation, image grid, the card's label values, and a file."""
    output = card.output
    for step in card.postprocessing:
        raise unknown_choice(
            f"step that a MONAI bundle of {card.name} can hold after the network:", step.name, ["none"]
        )
    if output.kind != "segmentation" or output.activation not in ("softmax", "sigmoid"):
        raise ValueError(
            f"A MONAI bundle here holds segmentations by softmax or sigmoid; {card.name} gives {output.kind} by "
            f"{output.activation}. Take another format."
        )
    values = [output.labels[index].value for index in sorted(output.labels)]
    single = output.activation == "sigmoid"
    if single and len(values) > 1:
        raise ValueError(f"A MONAI bundle cannot hold a sigmoid over {len(values)} labels. Take another format.")
    discrete = {"threshold": 0.5} if single else {"argmax": True}
    pairs = {
        "orig_labels": [0, 1] if single else list(range(len(values))),
        "target_labels": ([0] if single else []) + values,
    }
    return [
        {"_target_": "Activationsd", "keys": "pred", output.activation: True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
         "nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", **discrete},
        {"_target_": "MapLabelValued", "keys": "pred", **pairs},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
         "output_postfix": card.name.split(".")[1]},
    ]  # fmt: skip


def _first_output_layer(nested: Any) -> str:
    """Returns the name of the layer that gives the first output."""
    return re.findall(r"'([^']+)'", str(nested))[0]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    files.write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
