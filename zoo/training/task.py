"""The `Task` record: a problem with its data, network, training, synthesis and card, all in frozen groups."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.errors import unknown_choice
from zoo.hub.card import Plausible
from zoo.hub.tabular import Tabular

# (task, split) -> a graph function from an int32 seed pair to one (image, labels) sample; of a task with tabular
# inputs, to ((image, conditioning vector), labels).
MakeSamples = Callable[["Task", str], Callable[[Any], tuple[Any, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """How false positives come back in training; `zoo.training.hard_mining` does it.

    Attributes:
        every: epochs between two searches.
        fraction: share of the samples that return to hard places: of all samples of a synthesis, of those that are not
            centred on foreground where the data are real.
        num: most samples of a synthesis that are kept, and most voxels of each real case.
        threshold: least probability of a false positive.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> Mining(every=10).fraction
        0.25
    """

    every: int = 5
    fraction: float = 0.25
    num: int = 64
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 1 or self.num < 1 or not 0 < self.fraction <= 1 or not 0 < self.threshold < 1:
            raise ValueError(
                "Mining needs every >= 1, num >= 1, 0 < fraction <= 1 and 0 < threshold < 1, got "
                f"{self.every}, {self.num}, {self.fraction} and {self.threshold}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What the network reads and learns, and how samples are cut from real cases.

    Attributes:
        channels: names of the input channels, in order.
        labels: index -> (name, source value) of every class, 0 is background.
        spacing_mm: voxel size that the network sees, in mm.
        patch: voxels (x, y, z) of one training sample and one prediction window.
        native_grid: leave each case on its own grid; `spacing_mm` is then that of a usual case.
        preprocessing: named steps with numbers, as a card holds them: `{"name": "z_score", ...}`.
        context: how many times as wide the surroundings are that the network sees beside a patch, averaged down to as
            many voxels (`zoo.volumes.context`): further channels, which the builder must take apart (`unet3d`) and a
            synthesis must give. A sample of real data reads that much more of its case: 64 times the voxels for 4, cut
            off where the volume ends. None for none.
        centred: whether samples have the foreground in their middle, so that prediction looks for it first.
        mirrored: whether prediction always averages left/right mirror images.
        masked: whether labels have a second channel, 1 in the scan and 0 where a patch was padded, for a loss that
            heeds it: `Combined(..., maps=("mask",))`.
        tabular: values beside the images that condition the network; they add `conditioning` to the arguments.
        tabular_dropout: share of training samples whose tabular values are all taken away, so that the network learns
            what to do without; half as often each value is taken away alone.
        reader: layout of a folder of real data; None looks at the files.
        patterns: channel name, or "labels" -> what the reader calls it, where that differs.
        label_map: value in label files, or "*" for all others -> value of `labels`, for files with other values; None
            for none. Known FreeSurfer codes need no entry (`zoo.datasets.label_values`).
        positive_fraction: share of real patches that are centred on foreground.
        augment: `(image, labels, seed) -> (image, labels)` for real data, or None.
    """

    channels: tuple[str, ...]
    labels: Mapping[int, tuple[str, int]]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    native_grid: bool = False
    preprocessing: tuple[Mapping[str, Any], ...] = ()
    context: int | None = None
    centred: bool = False
    mirrored: bool = False
    masked: bool = False
    tabular: tuple[Tabular, ...] = ()
    tabular_dropout: float = 0.2
    reader: str | None = None
    patterns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_map: Mapping[int | str, int] | None = None
    positive_fraction: float = 1 / 3
    augment: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Which builder makes the network, and how it is called.

    Attributes:
        builder: name of a builder in `zoo/models`.
        arguments: keyword arguments of the builder beyond `input_shape` and `num_classes`.
        divisor: sizes that the network takes are multiples of it, along x, y, z.
        code_size: numbers in a code, for a builder that takes that in place of `num_classes`; None for the others.
        fixed_size: whether the network takes `patch` alone, not volumes of any size.
    """

    builder: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    divisor: tuple[int, int, int] = (8, 8, 8)
    code_size: int | None = None
    fixed_size: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What the logits become, as the card's output says.

    Attributes:
        kind: of output, as on a card.
        activation: what turns logits into the card's output.
        postprocessing: named steps after the network, in the form of `Data.preprocessing`.
        lesions: names of labels whose pieces are lesions: evaluation then scores each piece, too.
    """

    kind: str = "segmentation"
    activation: str = "softmax"
    postprocessing: tuple[Mapping[str, Any], ...] = ()
    lesions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How the network is trained.

    Attributes:
        loss: makes the loss, a function of logits.
        loss_arguments: keyword arguments of `loss`, such as weights of its terms, so that a search can reach them.
        optimizer: `name`, `learning_rate`, `schedule` and settings, as `zoo.training.optimizers.optimizer` reads them.
        batch_size: samples a step.
        steps: optimiser steps of the full training.
        metrics: makes the metrics of the progress bar; left out, a segmentation has its mean Dice.
        monitor: the metric that chooses the best weights, higher is better.
        validation_batches: number of synthetic validation batches.
        mining: how false positives come back in training (`zoo.training.hard_mining`); None leaves that out.
        prior_power: how far the final bias starts towards the classes' log prior: 1 there, 0 at zero. With many rare
            classes under a balanced loss, 0.5.
        final_bias: the head's first bias, one number a logit, where targets are no label maps; None takes the prior.
        learner: `(task, network, steps, jit) -> compiled model` where a network is not trained by one loss on its
            output, but against a critic, say; the model has the network as `network`. None compiles the network itself.
        watchers: `(run folder, validation batches) -> callbacks` that run in every training, on averaged weights.
    """

    loss: Callable[..., Any]
    loss_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "adam", "learning_rate": 1e-3})
    batch_size: int = 1
    steps: int = 1000
    metrics: Callable[[], list[Any]] = list
    monitor: str = "dice"
    validation_batches: int = 8
    mining: Mining | None = None
    prior_power: float = 1.0
    final_bias: tuple[float, ...] | None = None
    learner: Callable[..., Any] | None = None
    watchers: Callable[[Path, Any], list[Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How samples are drawn where the source is "synthetic".

    Attributes:
        samples: makes the function that draws samples; None where only real data serve.
        sample_arguments: keyword arguments of `samples` beyond the task and the split, so that a search can reach them.
        batched: whether a seed gives a whole batch, where its samples share what is costly to draw.
        maps: names of further channels of the labels, last, that a loss wants and only synthesis can draw.
        test_cases: writes the task's own held-out cases into a folder and lists them; None where real data serve alone.
    """

    samples: MakeSamples | None = None
    sample_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batched: bool = False
    maps: tuple[str, ...] = ()
    test_cases: Callable[[Path], list[Case]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardText:
    """What the card of the trained model tells its reader.

    Attributes:
        description: one sentence.
        intensities: channel name -> what its values are.
        training_data: `data`, what the synthesis is made of, and its `licence`.
        references: DOIs without a prefix.
        intended_use: one sentence.
        limits: one sentence each.
        plausible: what images and results look like, tested at run time; None where nothing is.
    """

    description: str
    intensities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    training_data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    references: tuple[str, ...] = ()
    intended_use: str = "Research on adult human brain images; not for diagnosis."
    limits: tuple[str, ...] = ()
    plausible: Plausible | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One problem with its network, data and goal; each file in `zoo/tasks` defines one as `TASK`.

    No two groups share a field name, so `replace` and hyper-parameter searches reach every setting by its name alone.

    Attributes:
        name: the tag of the model that it trains, `builder.name`.
        data: what the network reads and learns.
        network: the builder and its arguments.
        fit: loss, optimiser and length of the training.
        card: text for the card.
        output: what the logits become.
        synthesis: how synthetic samples are drawn.

    Example:
        >>> data = Data(channels=("T1w",), labels={0: ("background", 0), 1: ("ball", 1)}, spacing_mm=(1.0, 1.0, 1.0),
        ...             patch=(16, 24, 32))
        >>> task = Task(name="ball", data=data, network=Network(builder="unet3d"), fit=Fit(loss=dict),
        ...             card=CardText(description="Finds balls."))
        >>> task.model_name, task.replace(batch_size=2).fit.batch_size
        ('unet3d.ball', 2)
    """

    name: str
    data: Data
    network: Network
    fit: Fit
    card: CardText
    output: Output = Output()
    synthesis: Synthesis = Synthesis()

    @property
    def model_name(self) -> str:
        """Name of the trained model, `builder.tag`."""
        return f"{self.network.builder}.{self.name}"

    @property
    def grid_mm(self) -> tuple[float, float, float] | None:
        """Voxel size that cases are brought to, in mm; None where each stays on its own grid."""
        return None if self.data.native_grid else self.data.spacing_mm

    @property
    def network_arguments(self) -> dict[str, Any]:
        """`arguments`, `conditioning` where there are tabular inputs (two numbers each), and `context`, if any."""
        extra = {"conditioning": 2 * len(self.data.tabular)} if self.data.tabular else {}
        return dict(self.network.arguments) | extra | ({"context": self.data.context} if self.data.context else {})

    @property
    def builder_arguments(self) -> dict[str, Any]:
        """All arguments of the builder: the shape of its input, the size of its output, and the rest."""
        sizes = self.data.patch if self.network.fixed_size else (None, None, None)
        code_size = self.network.code_size
        output = {"num_classes": self.num_logits} if code_size is None else {"code_size": code_size}
        return {"input_shape": (*sizes, self.num_channels), **output, **self.network_arguments}

    @property
    def num_channels(self) -> int:
        """Channels of the network's input: the images, and again those of the surroundings where there are some."""
        return len(self.data.channels) * (2 if self.data.context else 1)

    @property
    def num_logits(self) -> int:
        """Channels of the head: one under a sigmoid of two classes, else one a class."""
        return 1 if self.output.activation == "sigmoid" and self.num_classes == 2 else self.num_classes

    @property
    def num_classes(self) -> int:
        """Number of labels, background counted."""
        return len(self.data.labels)

    def settings(self) -> dict[str, Any]:
        """Returns every setting by its field name, without its group."""
        groups = [getattr(self, name) for name in GROUPS]
        return {"name": self.name} | {
            field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)
        }

    def replace(self, **changes: Any) -> "Task":
        """Returns the task with some settings changed, for searches and ablations.

        Args:
            **changes: fields of any group by name (`batch_size=2`), `name`, or whole groups (`data=Data(...)`).

        Raises:
            ValueError: a name that no group has; the nearest match is named.
        """
        whole = {name: changes.pop(name) for name in ("name", *GROUPS) if name in changes}
        task = dataclasses.replace(self, **whole)
        inner: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if name not in GROUP_OF:
                raise unknown_choice("task setting", name, ("name", *GROUP_OF))
            inner.setdefault(GROUP_OF[name], {})[name] = value
        groups = {group: dataclasses.replace(getattr(task, group), **fields) for group, fields in inner.items()}
        return dataclasses.replace(task, **groups)


GROUPS: Mapping[str, type] = {
    "data": Data,
    "network": Network,
    "output": Output,
    "fit": Fit,
    "synthesis": Synthesis,
    "card": CardText,
}
GROUP_OF = {field.name: group for group, record in GROUPS.items() for field in dataclasses.fields(record)}
