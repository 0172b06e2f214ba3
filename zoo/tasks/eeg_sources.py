"""Defines the task of EEG sources: where in the brain a scalp topography comes from, and from how many places.

The network sees the linear inverses of a topography, and what a few steps of sparse Bayesian learning make of it, as
volumes, and turns them into a posterior over voxels. Montage and head enter only through these maps, so that one
network serves all of them. It is trained on physics alone: dipoles and patches in a family of heads. Prior art: ConvDip
(Hecker et al., Frontiers in Neuroscience 2021, doi 10.3389/fnins.2021.569918) and 3D-PIUNet (arXiv 2411.00143); the
source of the task, Kalinichenko et al., put electrode values into the volume (`inputs="electrodes"`) and weighed its
cross-entropy (`location_weighted_entropy`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from zoo.eeg import grid
from zoo.eeg.bank import Bank, bank
from zoo.eeg.kernels import CHANNELS, ELORETA_LAMBDA2, SLORETA_LAMBDA2, channel_names, constant, features
from zoo.eeg.sharpening import STEPS, Sharpening, checked_steps, sharpened
from zoo.errors import unknown_choice
from zoo.losses import Combined
from zoo.losses.source_posterior import (
    count_entropy,
    location_cross_entropy,
    location_focal,
    location_regression,
    location_weighted_entropy,
    moment_misalignment,
)
from zoo.metrics import SourceHit, SourceMass
from zoo.synth import eeg_topographies, seeds
from zoo.training.experiments.hyperparameter_search import Between
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task

INPUTS = ("physics", "electrodes")
MAPS = ("mask", "count")
# Losses of the location of sources: the first needs no tuning; the others are the source's loss and its remedies.
LOCATIONS = {
    "softmax": location_cross_entropy,
    "focal": location_focal,
    "weighted_entropy": location_weighted_entropy,
    "regression": location_regression,
}
# The source's search, for both networks: loss and its weights, optimiser and rate, dilation, few or many data.
SEARCH = {
    "loss_arguments.location": list(LOCATIONS),
    "loss_arguments.background": [1e-7, 1e-4, 1e-2],
    "optimizer.name": ["adam", "adamw", "sgd"],
    "optimizer.learning_rate": Between(3e-4, 1e-2, log=True),
    "sample_arguments.target": ["gaussian", "dilated"],
    "sample_arguments.examples": [20, None],
}
OUTPUTS = ("source", *(f"count_{n}" for n in range(6)), "moment_x", "moment_y", "moment_z")


@functools.cache
def members() -> Bank:
    """Returns the heads and montages to train on."""
    return bank()


@functools.cache
def space() -> eeg_topographies.Space:
    """Returns the places as tensors."""
    positions = ops.convert_to_tensor(grid.grid()[0], "float32")
    return eeg_topographies.Space(positions, ops.convert_to_tensor(grid.slots()), grid.SHAPE, grid.SPACING_MM)


def synthesis(
    task: Task,
    split: str,
    *,
    inputs: str = "physics",
    target: str | None = None,
    examples: int | None = None,
    recipe: eeg_topographies.Recipe | None = None,
    sbl_steps: Sequence[int] = STEPS,
) -> Callable[[Any], tuple[Any, Any]]:
    """Draws batches of one head and montage each.

    Args:
        task: its batch size counts.
        split: validation differs only in its seeds; the test sets have heads of their own.
        inputs: "physics" for the linear inverses, or "electrodes" for potentials spread into the volume.
        target: the training target, as in `zoo.synth.eeg_topographies.Recipe`; None keeps it;
            validation always uses "gaussian", so that networks of different targets can be compared.
        examples: number of different batches to learn from; None makes new ones without end.
        recipe: ranges of the generator.
        sbl_steps: numbers of steps of sparse Bayesian learning after which there is a map, see
            `zoo.eeg.sharpening`; () for the linear inverses alone, with `channels=CHANNELS` of the task.

    Returns:
        From a seed to inputs (batch, 24, 28, 24, 10 + maps) (5 for electrodes) and targets (batch, 24, 28, 24, 6).

    Raises:
        ValueError: other inputs, or steps that do not ascend.
    """
    steps = checked_steps(sbl_steps)
    if inputs not in INPUTS:
        raise unknown_choice("inputs", inputs, INPUTS)
    learning = split == "train"
    ranges = recipe or eeg_topographies.Recipe()
    ranges = dataclasses.replace(ranges, target=(target or ranges.target) if learning else "gaussian")
    heads, where = members(), space()
    tensors = {name: ops.convert_to_tensor(getattr(heads, name)) for name in Bank.__dataclass_fields__}
    fixed = ops.convert_to_tensor(constant())

    def batch(seed: Any) -> tuple[Any, Any]:
        if learning and examples is not None:
            seed = ops.stack([seed[0], seed[1] % examples])
        index = ops.cast(seeds.bits(seed, (1,), stream=20)[0] % heads.members, "int32")
        own = {name: ops.cast(ops.take(stack, index, axis=0), "float32") for name, stack in tensors.items()}
        params = eeg_topographies.draw(seed, task.fit.batch_size, where, ranges, channels=own["present"].shape[0])
        measured = eeg_topographies.apply(params, where, own["field"], own["present"], own["colour"])
        targets = eeg_topographies.target(params, where, ranges)
        if inputs == "electrodes":
            return eeg_topographies.electrode_volume(measured, own["spread"], fixed, where), targets
        known = Sharpening(own["projector"], own["columns"])
        sharpen = functools.partial(sharpened, known, steps=steps, ops=ops) if steps else None
        arrays = (own["eloreta"], own["blocks"], own["energy"], fixed, where.slots)
        return features(*arrays, topographies=measured, ops=ops, sharpen=sharpen), targets

    return batch


def loss(location: str = "softmax", background: float = 1e-7) -> Any:
    """Returns the loss of location, plus with small weights those of the number and direction of sources.

    Args:
        location: key into `LOCATIONS`.
        background: weight of voxels without a source in "weighted_entropy"; the others ignore it.

    Raises:
        ValueError: an unknown location loss.
    """
    if location not in LOCATIONS:
        raise unknown_choice("location loss", location, LOCATIONS)
    own = {"background": background} if location == "weighted_entropy" else {}
    return Combined([(1.0, LOCATIONS[location], own), (0.2, count_entropy), (0.1, moment_misalignment)], maps=MAPS)


def metrics() -> list[Any]:
    """Returns the posterior mass near the true sources, and how often the largest place is near one."""
    return [SourceMass(), SourceHit()]


TASK = Task(
    name="eeg_sources",
    data=Data(
        channels=channel_names(STEPS),
        labels={index: (name, index) for index, name in enumerate(OUTPUTS)},
        spacing_mm=(grid.SPACING_MM,) * 3,
        patch=grid.SHAPE,
        preprocessing=(
            {
                "name": "eeg_kernels",
                "eloreta_lambda2": ELORETA_LAMBDA2,
                "sloreta_lambda2": list(SLORETA_LAMBDA2),
                "sbl_steps": list(STEPS),
                "reference": "average",
                "places": grid.NUM_PLACES,
            },
        ),
    ),
    network=Network(
        builder="unet3d",
        # Without norms: they would hide how much a topography explains, and take a third of a step's time.
        arguments={"filters": (16, 40, 80), "up_filters": (16, 40), "activation": "leaky_relu", "norm": "none"},
        divisor=(4, 4, 4),
    ),
    output=Output(
        kind="sources",
        postprocessing=(
            {
                "name": "eeg_decode",
                "ball_mm": 15.0,
                "apart_mm": 25.0,
                "sbl_share": 0.6,
                "reach_mm": 20.0,
                "count_by_fit": True,
            },
        ),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="mass",
        final_bias=(0.0,) * len(OUTPUTS),
        optimizer={**EMA_ADAM, "learning_rate": 1.5e-3, "warmup": 100, "ema_momentum": 0.99},
        batch_size=16,
        steps=1400,
        validation_batches=16,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        batched=True,
    ),
    card=CardText(
        description="Sources of EEG: a posterior over the brain from one scalp topography of any montage.",
        intensities={
            **dict.fromkeys(CHANNELS[:3], "eLORETA's current over its largest length"),
            **dict.fromkeys(CHANNELS[3:5], "standardised LORETA, 0 to 1"),
            "dipole_fit": "root of the variance that one dipole explains, 0 to 1",
            "mask": "1 where a source can be",
            **dict.fromkeys(CHANNELS[7:], "coordinate of the template in units of 100 mm, 0 outside"),
            **{
                f"sbl_{n}": f"current after {n} steps of sparse Bayesian learning, four decades below the largest"
                for n in STEPS
            },
        },
        training_data={
            "data": "simulated topographies of dipoles and patches in fsaverage and five relatives of it, boundary "
            "elements of three shells, montages of 19 to 128 channels; no recording",
            "licence": "surfaces of fsaverage as MNE-Python ships them (FreeSurfer licence), read at run time",
        },
        references=("10.3389/fnins.2021.569918",),
        intended_use="Research on adult human EEG; not for diagnosis, nor for planning surgery.",
        limits=(
            "Trained on simulated data alone.",
            "The number of sources is that of the best fit, at most one for each nine channels; the count maps of the "
            "network are not read.",
            "At most five sources at a time; sources nearer to each other than about 3 cm are merged.",
            "Places are 7 mm apart and 5 mm or more below the inner skull of an adult head.",
        ),
    ),
)
VNET = TASK.replace(
    builder="vnet",
    arguments={"filters": (8, 24, 48), "activation": "prelu", "norm": "none", "variant": "released"},
    optimizer={**TASK.fit.optimizer, "learning_rate": 1e-3},
    steps=600,
)
VARIANTS = (VNET,)
