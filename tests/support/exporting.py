"""A small trained model in a folder, with whatever an export must cope with, and its cases."""

import keras
import nibabel
import numpy as np

import zoo
from zoo.hub.card import Card, Channel, Input, Label, Output, Step, Training
from zoo.hub.tabular import Tabular

LABELS = {0: Label("background", 0), 1: Label("left_part", 10), 2: Label("right_part", 260)}
FIELDS = (Tabular("age", "years", 18, 90, 50.0, 16.0), Tabular("sex", "", 0, 1, 0.5, 0.5, {"f": 0.0, "m": 1.0}))
SCORED = (Step("clip_percentiles", {"low": 1.0, "high": 99.0}), Step("z_score", {"mask": "nonzero"}))


def shaped(card, model):
    """The model with weights that make its labels vary from voxel to voxel."""
    draw = np.random.default_rng(3)
    for weight in model.weights:
        spread = draw.normal(0, 1.4 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape)
        weight.assign(spread if len(weight.shape) > 1 else np.asarray(weight) + 0.2 * draw.random(weight.shape))
    return model


def made(folder, *, channels=("T1w",), tabular=(), **changes):
    """Writes a trained model and returns its folder."""
    given = Input(
        tuple(Channel(name, "any") for name in channels), (16, 12, 8), (4, 4, 4), changes.pop("spacing_mm", None),
        tabular=tabular,
    )  # fmt: skip
    arguments = {"input_shape": (None, None, None, len(channels)), "num_classes": 3, "filters": (3, 4, 5)}
    arguments |= {"norm": "instance", "activation": "leaky_relu"} | (
        {"conditioning": 2 * len(tabular)} if tabular else {}
    )
    fields = {
        "name": "unet3d.small", "version": "1.0.0", "builder": "unet3d", "arguments": arguments, "task": "tests",
        "description": "Small.", "input": given, "output": Output("segmentation", "softmax", LABELS),
        "training": Training("nothing", "CC0-1.0", True, "none"), "licence": "Apache-2.0", "intended_use": "Tests.",
        "limits": ("Knows nothing.",), "changelog": {"1.0.0": "First."}, "preprocessing": SCORED,
    }  # fmt: skip
    card = Card(**{**fields, **changes})
    keras.utils.set_random_seed(1)
    return zoo.save(shaped(card, zoo.load("unet3d", **arguments)), folder / "unet3d.small", card, dtype="float32")


def scan(shape, affine=None, seed=0):
    """A box of smooth structure in air, with noise on it."""
    draw = np.random.default_rng(seed)
    data = np.zeros(shape, np.float32)
    inner = tuple(slice(2, -2) for _ in shape)
    waves = [np.sin(np.arange(n) * step)[2:-2] for n, step in zip(shape, (0.5, 0.7, 0.9), strict=True)]
    data[inner] = 50 + 20 * np.einsum("i,j,k->ijk", *waves) + draw.normal(0, 4, data[inner].shape)
    return nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)


def tilted():
    """An affine that runs backwards, swaps axes and is oblique, with voxels of 1.3 x 1.1 x 1.2 mm."""
    angle = 0.15
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -1.2], [1.3, 0, 0], [0, -1.1, 0]])
    affine[:3, 3] = (4, -7, 30)
    return affine
