"""What a task is: everything that `zoo.train` needs to know, in one frozen record."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.hub.tabular import Tabular

# (task, split) -> a graph function from an int32 seed pair to one (image, labels) sample; of a task with tabular
# inputs, to ((image, conditioning vector), labels).
Synthesis = Callable[["Task", str], Callable[[Any], tuple[Any, Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining:
    """How false positives come back in training; `zoo.training.hard_mining` does it.

    Attributes:
        every: epochs between two searches.
        fraction: share of the samples that return to what was found: of all samples of a synthesis, of those that are
            not centred on foreground where the data are real.
        num: most samples of a synthesis that are kept, and most voxels of each real case.
        threshold: least probability of a false positive.

    Raises:
        ValueError: a number is out of its range.
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
class Task:
    """One problem with its network, data and goal; each file in `zoo/tasks` defines one as `TASK`.

    Attributes:
        name: the tag of the model that it trains, `builder.name`.
        description: one sentence for the card.
        builder: name of a builder in `zoo/models`.
        arguments: keyword arguments of the builder beyond `input_shape` and `num_classes`.
        channels: names of the input channels, in order.
        labels: index -> (name, source value) of every class, 0 is background.
        spacing_mm: voxel size that the network sees, in mm.
        native_grid: leave each case on its own grid; `spacing_mm` is then that of a usual case.
        patch: voxels (x, y, z) of one training sample and one prediction window.
        loss: makes the loss, a function of logits.
        loss_arguments: what it is called with, such as weights of its terms, so that a search can reach them.
        optimizer: `name`, `learning_rate`, `schedule` and settings, as `zoo.training.optimizers.optimizer` reads them.
        batch_size: samples a step.
        steps: optimiser steps of the full training.
        divisor: sizes that the network takes are multiples of it, along x, y, z.
        intensities: channel name -> what its values are, for the card.
        preprocessing: named steps with numbers, as a card holds them: `{"name": "zscore", ...}`.
        postprocessing: the same, after the network.
        tabular: values beside the images that condition the network; they add `conditioning` to the arguments.
        tabular_dropout: share of training samples whose tabular values are all taken away, so that the network learns
            what to do without; half as often each value is taken away alone.
        masked: whether labels have a second channel, 1 in the scan and 0 where a patch was padded, for a loss that
            heeds it: `Combined(..., maps=("mask",))`.
        maps: names of further channels of the labels, last, that a loss wants and only synthesis can draw.
        synthesis: makes samples where the source is "synthetic"; None where only real data serve.
        synthesis_arguments: what it is called with beyond the task and the split, so that a search can reach them.
        batched: whether `synthesis` makes a whole batch of one seed, where its samples share what is costly to draw.
        test_cases: writes the task's own held-out cases into a folder and lists them; None where real data serve alone.
        kind: of output, as on a card.
        activation: what turns logits into the card's output.
        lesions: names of labels whose pieces are lesions: evaluation then scores each piece, too.
        flip_pairs: pairs of label indices that a left-right mirror exchanges.
        reader: layout of a folder of real data; None looks at the files.
        patterns: channel name, or "labels" -> what the reader calls it, where that differs.
        positive_fraction: share of real patches that are centred on foreground.
        mining: how false positives come back in training (`zoo.training.hard_mining`); None leaves that out.
        augment: `(image, labels, seed) -> (image, labels)` for real data, or None.
        metrics: makes the metrics of the progress bar; left out, a segmentation has its mean Dice.
        monitor: the metric that chooses the best weights, higher is better.
        code_size: numbers in a code, for a builder that takes that in place of `num_classes`; None for the others.
        fixed_size: whether the network takes `patch` alone, not volumes of any size.
        learner: `(task, network, steps, jit) -> compiled model` where a network is not trained by one loss on its
            output, but against a critic, say; the model has the network as `network`. None compiles the network itself.
        watchers: `(run folder, validation batches) -> callbacks` that look on in every run, with averaged weights.
        context: how many times as wide the surroundings are that the network sees beside a patch, averaged down to as
            many voxels (`zoo.volumes.context`): further channels, which the builder must take apart (`unet3d`) and a
            synthesis must give. A sample of real data reads that much more of its case: 64 times the voxels for 4, cut
            off where the volume ends. None for none.
        prior_power: how far the final bias starts towards the classes' log prior: 1 there, 0 at zero. With many rare
            classes under a balanced loss, 0.5.
        final_bias: the head's first bias, one number a logit, where targets are no label maps; None takes the prior.
        validation_batches: number of synthetic validation batches.
        training_data: what the synthesis is made of, and under which licence, for the card.
        references: DOIs without a prefix.
        intended_use: for the card.
        limits: one sentence each, for the card.
    """

    name: str
    description: str
    builder: str
    channels: tuple[str, ...]
    labels: Mapping[int, tuple[str, int]]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    loss: Callable[..., Any]
    loss_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "adam", "learning_rate": 1e-3})
    batch_size: int = 1
    steps: int = 1000
    divisor: tuple[int, int, int] = (8, 8, 8)
    intensities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    preprocessing: tuple[Mapping[str, Any], ...] = ()
    postprocessing: tuple[Mapping[str, Any], ...] = ()
    tabular: tuple[Tabular, ...] = ()
    tabular_dropout: float = 0.2
    masked: bool = False
    maps: tuple[str, ...] = ()
    native_grid: bool = False
    synthesis: Synthesis | None = None
    synthesis_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batched: bool = False
    test_cases: Callable[[Path], list[Case]] | None = None
    kind: str = "segmentation"
    activation: str = "softmax"
    lesions: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    reader: str | None = None
    patterns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    positive_fraction: float = 1 / 3
    mining: Mining | None = None
    augment: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
    metrics: Callable[[], list[Any]] = list
    monitor: str = "dice"
    code_size: int | None = None
    fixed_size: bool = False
    learner: Callable[..., Any] | None = None
    watchers: Callable[[Path, Any], list[Any]] | None = None
    context: int | None = None
    prior_power: float = 1.0
    final_bias: tuple[float, ...] | None = None
    validation_batches: int = 8
    training_data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    references: tuple[str, ...] = ()
    intended_use: str = "Research on adult human brain images; not for diagnosis."
    limits: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        """Name of the trained model, `builder.tag`."""
        return f"{self.builder}.{self.name}"

    @property
    def grid_mm(self) -> tuple[float, float, float] | None:
        """Voxel size that cases are brought to, in mm; None where each stays on its own grid."""
        return None if self.native_grid else self.spacing_mm

    @property
    def network_arguments(self) -> dict[str, Any]:
        """`arguments`, `conditioning` where there are tabular inputs (two numbers each), and `context`, if any."""
        extra = {"conditioning": 2 * len(self.tabular)} if self.tabular else {}
        return dict(self.arguments) | extra | ({"context": self.context} if self.context else {})

    @property
    def builder_arguments(self) -> dict[str, Any]:
        """Everything that the builder is called with: the shape of its input, the size of its output, and the rest."""
        sizes = self.patch if self.fixed_size else (None, None, None)
        output = {"num_classes": self.num_logits} if self.code_size is None else {"code_size": self.code_size}
        return {"input_shape": (*sizes, self.num_channels), **output, **self.network_arguments}

    @property
    def num_channels(self) -> int:
        """Channels of the network's input: the images, and again those of the surroundings where there are some."""
        return len(self.channels) * (2 if self.context else 1)

    @property
    def num_logits(self) -> int:
        """Channels of the head: one under a sigmoid of two classes, else one a class."""
        return 1 if self.activation == "sigmoid" and self.num_classes == 2 else self.num_classes

    @property
    def num_classes(self) -> int:
        """Number of labels, background counted."""
        return len(self.labels)

    def replace(self, **changes: Any) -> "Task":
        """The same task with some fields changed, for searches and ablations."""
        return dataclasses.replace(self, **changes)
