"""Defines the task of lesions as outliers: a siamese auto-encoder learns the normal at each place, without labels.

The network reconstructs two patches of the same place in two healthy people and makes their codes agree. A person's
code at a place is then compared with the codes of controls there (`zoo.normative.model`), by the same detectors for
every network. After Alaverdyan et al., Medical Image Analysis 2020, doi
10.1016/j.media.2019.101618; trained on synthetic controls (`zoo.synth.epilepsy`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from zoo.hub.card import Plausible
from zoo.losses.agreement import Agreement
from zoo.models.siamese import PATCH
from zoo.normative import synthetic_cohort as cohorts
from zoo.synth import seeds
from zoo.synth.anatomy import common_space
from zoo.synth.epilepsy import CHANNELS
from zoo.training import adversarial
from zoo.training.adversarial import coarse_context
from zoo.training.joint_loss import learn
from zoo.training.optimizers import EMA_ADAM, optimizer
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task

CODE_SIZE = 64
# Scans that patches are cut from, of 13 people; more would teach more, but each takes seconds to paint.
PEOPLE = {"train": 39, "validation": 13}


def loss(alpha: float = 0.25, *, convex: bool = False, hinge: float = 0.1, least_sd: float = 0.5) -> Agreement:
    """Returns the loss `zoo.losses.agreement.Agreement`: reconstruction less agreement of the codes, and the hinge."""
    return Agreement(alpha, convex=convex, hinge=hinge, least_sd=least_sd)


def synthesis(task: Task, split: str, *, intensities: str = "local") -> Callable[[Any], tuple[Any, Any]]:
    """Draws batches of pairs of training people; validation has scans of its own. Practice and test people stay out."""
    which = "validation" if split == "validation" else "train"
    images = cohorts.stack_images(cohorts.load_cohort(which, PEOPLE[which], intensities=intensities))
    return pairs(images, centres(task.data.patch), size=task.fit.batch_size, patch=task.data.patch)


def centres(patch: Sequence[int]) -> np.ndarray:
    """Returns the first corners (n, 3) int32 of patches in the common space that are centred in the brain."""
    half = np.array(patch) // 2
    corners = np.argwhere(cohorts.brain()) - half
    inside = np.all((corners >= 0) & (corners + patch <= common_space.SHAPE), axis=1)
    return corners[inside].astype(np.int32)


def pairs(images: np.ndarray, corners: np.ndarray, *, size: int, patch: Sequence[int]) -> Callable[[Any], Any]:
    """Draws batches of patches of one place in two different people.

    Args:
        images: (people, x, y, z, channels) in the common space.
        corners: (places, 3) int32, first corners that patches may have.
        size: pairs per batch.
        patch: voxels (x, y, z).

    Returns:
        A graph function from a seed to ((a, b), (a, b)), each (size, *patch, channels) float32: the target of a pair
        is the pair itself.
    """
    people, shape = images.shape[0], images.shape[1:4]
    flat = ops.convert_to_tensor(images.reshape(-1, images.shape[-1]))
    places = ops.convert_to_tensor(np.ravel_multi_index(tuple(corners.T), shape).astype(np.int32))
    grid = np.indices(patch).reshape(3, -1)
    offsets = ops.convert_to_tensor(np.ravel_multi_index(tuple(grid), shape).astype(np.int32))
    voxels = int(np.prod(shape))

    def sample(seed: Any) -> tuple[Any, Any]:
        start = ops.take(places, _draw_integers(seed, places.shape[0], size, 1), axis=0)
        first = _draw_integers(seed, people, size, 2)
        second = (first + 1 + _draw_integers(seed, people - 1, size, 3)) % people
        pair = tuple(_cut_patches(flat, person * voxels + start, offsets, patch) for person in (first, second))
        return pair, pair

    return sample


def _draw_integers(seed: Any, limit: int, size: int, stream: int) -> Any:
    """Draws (size,) int32, uniform from 0 to limit - 1."""
    return ops.cast(ops.floor(limit * seeds.uniform(seed, (size,), stream)), "int32")


def _cut_patches(flat: Any, start: Any, offsets: Any, patch: Sequence[int]) -> Any:
    values = ops.take(flat, start[:, None] + offsets[None], axis=0)
    return ops.reshape(ops.cast(values, "float32"), (-1, *patch, flat.shape[-1]))


TASK = Task(
    name="epilepsy_lesions",
    data=Data(
        channels=CHANNELS,
        labels={},
        spacing_mm=(1.0, 1.0, 1.0),
        patch=(PATCH,) * 3,
        preprocessing=({"name": "z_score", "mask": "nonzero"},),
    ),
    network=Network(
        builder="siamese",
        code_size=CODE_SIZE,
        divisor=(3, 3, 3),
    ),
    output=Output(
        kind="codes",
        activation="linear",
    ),
    fit=Fit(
        learner=learn,
        loss=loss,
        monitor="score",
        optimizer={**EMA_ADAM, "warmup": 100, "ema_momentum": 0.99},
        batch_size=32,
        steps=3000,
        validation_batches=16,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        batched=True,
    ),
    card=CardText(
        description="Codes of what is normal at each place of a brain on T1 and FLAIR; outliers are lesions.",
        intensities=dict.fromkeys(
            CHANNELS, "any scale; the brain is cut out and made flat (zoo.volumes.local_normalisation)"
        ),
        training_data={
            "data": "39 synthetic scans, T1 and FLAIR, of 13 healthy people: deformed label maps of SynthSeg (01 to "
            "10) and SynthSR (1 to 3) on the template of nibabies, contrasts from relaxation times; no real image",
            "licence": "label maps of SynthSeg and SynthSR (Apache-2.0), template of nibabies (FreeSurfer licence), "
            "read at run time",
        },
        references=("10.1016/j.media.2019.101618",),
        intended_use="Research on lesions that are hard to see; not for diagnosis or the planning of surgery.",
        limits=(
            "Trained on synthetic images of 13 adults; no measured image, no real lesion.",
            "The moments that come with it know 39 synthetic scans of 13 people and no real scanner: fit the detectors "
            "on your own site's controls (zoo fit-normative).",
            "A voxel is judged by the 15 mm around it; lesions much smaller or much larger can pass unseen.",
            "It points at places to look at again; most of what it marks in a healthy brain is nothing.",
        ),
        plausible=Plausible(extent_mm=(60, 700), shows="brain"),
    ),
)

# The contextual GAN: a hole of 8 mm in a patch of 16 mm, within the brain at 6 mm.
HOLE, CONTEXT, RATIO = (8, 8, 8), (32, 32, 32), 6
CRITIC_RATE = 1.0  # learning rate of the critics over that of the generator


def contextual_synthesis(task: Task, split: str, *, intensities: str = "local") -> Callable[[Any], tuple[Any, Any]]:
    """Draws batches of patches with their surroundings, of the same people as `synthesis`."""
    which = "validation" if split == "validation" else "train"
    images = cohorts.stack_images(cohorts.load_cohort(which, PEOPLE[which], intensities=intensities))
    return coarse_context.sampler(
        images, cohorts.brain(), size=task.fit.batch_size, patch=task.data.patch, ratio=RATIO, shape=CONTEXT
    )


def contextual_learner(task: Task, network: Any, steps: int, jit: bool) -> Any:
    """Makes the learner of the contextual GAN; the task's loss is its balance, the task's optimiser the generator's."""
    balance = task.fit.loss(**task.fit.loss_arguments)
    gan = adversarial.ContextualGan(network, adversarial.Setting(hole=HOLE, balance=balance))
    critic = {key: value for key, value in task.fit.optimizer.items() if key not in ("use_ema", "ema_momentum")}
    critic["learning_rate"] = CRITIC_RATE * task.fit.optimizer["learning_rate"]
    return gan.prepare(optimizer(task.fit.optimizer, steps), optimizer(critic, steps), jit=jit)


def contextual_watchers(out: Path, validation: Any) -> list[Any]:
    """Returns the callbacks: a montage after each validation, and the check for collapse."""
    return [adversarial.CollapseWatch(), adversarial.Montage(out / "samples", validation)]


GAN = TASK.replace(
    description="Fills holes of a brain on T1 and FLAIR from what is near, what is far, and where: what it cannot "
    "foretell is unusual.",
    builder="gan3d",
    arguments={
        "variant": "contextual",
        "filters": (8, 16, 32),
        "norm": "group",
        "activation": "leaky_relu",
        "context_shape": CONTEXT,
        "context_ratio": float(RATIO),
    },
    fixed_size=True,
    learner=contextual_learner,
    watchers=contextual_watchers,
    kind="generation",
    patch=(16, 16, 16),
    divisor=(8, 8, 8),
    loss=adversarial.Balance,
    monitor="psnr",
    # Ten times the 1e-4 of GANs that train for days, and an average over fewer steps: this one trains for minutes. With
    # patches of 32 mm its fillings were still uniformly grey after the same time.
    optimizer={
        "name": "adam",
        "learning_rate": 1e-3,
        "beta_1": 0.0,
        "beta_2": 0.9,
        "schedule": "polynomial",
        "warmup": 50,
        "global_clipnorm": 50.0,
        "use_ema": True,
        "ema_momentum": 0.99,
    },
    batch_size=16,
    steps=600,
    samples=contextual_synthesis,
    validation_batches=4,
    references=("10.1016/j.media.2019.101618", "10.1109/CVPR.2016.278", "10.1145/3072959.3073659"),
    limits=(
        "Trained for minutes on synthetic images of 13 adults; its fillings are smooth.",
        "Patches of 16 mm, narrow filters (8 to 32), surroundings of 6 mm, so that two CPU cores could train it.",
        "Takes patches, not images: zoo.training.adversarial.inpainting reads whole volumes with it.",
    ),
)
VARIANTS = (GAN,)
