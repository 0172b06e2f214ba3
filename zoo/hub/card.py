"""The card of a trained model: everything a caller must know of it, as typed data.

`card.json` is the file, `Card` its content. Reading collects every fault and names them in one error, so that
a card is repaired in one go. Nothing here imports Keras; `zoo.list_models()` and `zoo.card()` stay quick.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from zoo.hub.tabular import Tabular

KINDS = ("segmentation", "regression", "reconstruction", "generation", "codes", "sources")
NAMED = ("segmentation", "sources")  # kinds whose every logit has a name
ACTIVATIONS = ("linear", "sigmoid", "softmax", "tanh", "relu", "softplus")
SHOWN = ("head", "brain", None)
DTYPES = ("float16", "float32")
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Channel:
    """One input channel: its name ("T1w") and what its intensities are ("any MR contrast", "z-score")."""

    name: str
    intensity: str


@dataclass(frozen=True)
class Step:
    """A named step before or after the network, with its numbers: `Step("crop", {"margin_mm": 5})`."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """What the network takes.

    Attributes:
        channels: in the order of the last tensor axis.
        patch: window in voxels along x, y, z.
        divisor: each size must be a multiple of it, along x, y, z.
        spacing_mm: voxel size along x, y, z; None for each image's own, or where a step sets the grid (a resize).
        orientation: always "RAS".
        tabular: values beside the images that condition the network, in order; two numbers each (`zoo.hub.tabular`).
        context: how many times as wide the surroundings are that the network sees beside a window, as further channels
            (`zoo.volumes.context`); None for none.
        centred: whether the network learned from windows with the foreground in their middle; prediction then finds
            the foreground first, and looks straight at it.
        mirrored: whether left/right mirror images are averaged whatever the settings: worth the time on this model.
    """

    channels: tuple[Channel, ...]
    patch: tuple[int, int, int]
    divisor: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str = "RAS"
    tabular: tuple[Tabular, ...] = ()
    context: int | None = None
    centred: bool = False
    mirrored: bool = False

    @property
    def num_channels(self) -> int:
        """Channels of the network's input tensor: the images, and again those of the surroundings where it has some."""
        return len(self.channels) * (2 if self.context else 1)


@dataclass(frozen=True)
class Label:
    """One output class: its name and the integer that stands for it in the source label map."""

    name: str
    value: int


@dataclass(frozen=True)
class Output:
    """What the network gives: its kind, the activation that turns logits into it, labels by channel index."""

    kind: str
    activation: str
    labels: dict[int, Label] = field(default_factory=dict)


@dataclass(frozen=True)
class Plausible:
    """What sound images and results look like; `zoo.inference.plausibility` tests it at run time.

    Attributes:
        extent_mm: least and greatest length of the longest side of an image; what lies outside is refused.
        shows: "head" for images with skull and air, "brain" for a brain alone with 0 around it, None for either.
        volumes_ml: label -> least and greatest volume that is believed without a warning.
        asymmetry_percent: greatest difference of two sides, in percent of their mean, without a warning.
        edge_cm2: greatest area in which a result touches a face of the image without a warning.
    """

    extent_mm: tuple[float, float] | None = None
    shows: str | None = None
    volumes_ml: dict[str, tuple[float, float]] = field(default_factory=dict)
    asymmetry_percent: float | None = None
    edge_cm2: float | None = None


@dataclass(frozen=True)
class Training:
    """How the weights came to be; None where a converted model does not tell.

    Attributes:
        data: what it was trained on, in words.
        data_licence: licence of those data.
        synthetic: whether the training images were synthetic; the README says so first.
        command: what repeats the training or the conversion.
        commit: of the code, 7 to 40 hexadecimal digits.
        seed: of the run.
        device: in words ("2 CPU cores").
        steps: optimiser steps.
        minutes: wall time.
    """

    data: str
    data_licence: str
    synthetic: bool
    command: str
    commit: str | None = None
    seed: int | None = None
    device: str | None = None
    steps: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Weights:
    """The weight file beside the card: plain name, size in bytes, sha256 in hexadecimal, dtype on disk."""

    file: str
    bytes: int
    sha256: str
    dtype: str


@dataclass(frozen=True)
class Golden:
    """The file with a small input and its output: plain name, size in bytes, sha256 in hexadecimal."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Attached:
    """A further file beside the weights, such as a detector's moments: plain name, size in bytes, sha256."""

    file: str
    bytes: int
    sha256: str


Stored = Weights | Golden | Attached


@dataclass(frozen=True)
class Card:
    """Everything a caller must know of a trained model; the fields are those of `card.json`.

    `parameters`, `weights` and `golden` are measured: `zoo.save` fills them, nobody types them.

    Attributes:
        name: `builder.tag`.
        version: `major.minor.patch`, of this trained model.
        builder: name of a file in `zoo/models`.
        arguments: of the builder; lists become tuples.
        task: name of a file in `zoo/tasks`, or a word for what it does.
        metrics: data set -> {metric: value, "n": number of cases}.
        tables: title -> rows of column -> text, such as an ablation, shown below the metrics.
        limits: one sentence each.
        references: DOIs without a prefix.
        changelog: version -> what changed; has the present version.
        plausible: what its images and results look like; None where nothing is tested.
        attached: further files that are fetched and verified with the weights; `zoo.hub.save.attach` adds one.
    """

    name: str
    version: str
    builder: str
    arguments: dict[str, Any]
    task: str
    description: str
    input: Input
    output: Output
    training: Training
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    changelog: dict[str, str]
    preprocessing: tuple[Step, ...] = ()
    postprocessing: tuple[Step, ...] = ()
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    tables: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    parameters: int | None = None
    weights: Weights | None = None
    golden: Golden | None = None
    attached: tuple[Attached, ...] = ()
    plausible: Plausible | None = None
