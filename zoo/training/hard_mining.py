"""Hard-negative mining: finds, every few epochs, what the network takes for a lesion, and shows it more often.

A run pauses at the end of every k-th epoch, looks for its worst false positives in its own training data, writes them
to the run folder, `hard/STEP.json`, and goes on with samples that return to them. A run that is stopped and goes on
reads the list that belongs to its step, so that it sees the same samples as one that was never stopped.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from zoo.files import cached_json
from zoo.inference.compiled_network import prepare
from zoo.inference.sliding_window import sliding_window
from zoo.pipeline.cache import Cache
from zoo.pipeline.dataset import Stream, dataset
from zoo.pipeline.sampler import mine
from zoo.training.task import Mining

FOLDER = "hard"
# Numbers of samples of a synthesis, or case id -> voxels of a cached case.
Hard = Sequence[int] | Mapping[str, Sequence[Sequence[int]]]


def pauses(mining: Mining | None, epochs: int) -> list[int]:
    """Returns the epochs after which a run pauses, the last one of the run among them."""
    return sorted({*range(mining.every, epochs, mining.every), epochs} if mining else {epochs})


def load_or_find(out: Path, step: int, *, every_steps: int, find: Callable[[], Hard]) -> Hard | None:
    """Returns the list that a run trains with from a step on, and finds it where the run is at a search.

    Args:
        out: the run folder.
        step: where the run is.
        every_steps: steps between two searches.
        find: searches, where the list of this step is not written yet.

    Returns:
        The list; None before the first search.

    Raises:
        ValueError: the run is between two searches and the list of the earlier one is gone.
    """
    begin = step // every_steps * every_steps
    if not begin:
        return None
    path = out / FOLDER / f"{begin:07d}.json"
    if step == begin:
        return cached_json(path, find)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        text = f"{path}, which the run found at step {begin}, is gone or broken ({error}). Train into a new folder."
        raise ValueError(text) from error


def hard_numbers(model: keras.Model, mining: Mining, samples: Callable[[int], Any], numbers: Sequence[int]) -> Hard:
    """Returns the samples of a synthesis with the most false positives.

    Args:
        model: as it is now.
        mining: the settings.
        samples: number -> image and labels of one sample, without the axis of the batch.
        numbers: of the samples to search.

    Returns:
        Numbers, the worst first; may be none.
    """
    mass = {}
    for number in numbers:
        image, labels = samples(number)
        p = foreground(np.asarray(model(image[None], training=False), np.float32))[0]
        wrong = (np.asarray(labels)[..., 0] == 0) & (p > mining.threshold)
        if wrong.any():
            mass[number] = float(p[wrong].sum())
    return sorted(mass, key=lambda number: -mass[number])[: mining.num]


def hard_places(
    model: keras.Model, mining: Mining, cache: Cache, patch: Sequence[int], context: int | None = None
) -> Hard:
    """Returns the worst false positives of each training case, predicted whole.

    Args:
        model: as it is now.
        mining: the settings.
        cache: the training cases.
        patch: window in voxels.
        context: of the task.

    Returns:
        Case id -> voxels, the worst first; cases without any are left out.
    """
    forward, hard = prepare(model), {}
    whole = dataset(cache, patch=None, stream=Stream(stop=len(cache.ids)))
    for case, (image, labels) in zip(cache.ids, whole.as_numpy_iterator(), strict=True):
        logits = sliding_window(forward, image[0], patch=patch, overlap=0.25, activation="linear", context=context)
        places = mine(foreground(logits), labels[0, ..., 0], num=mining.num, threshold=mining.threshold)
        if len(places):
            hard[case] = places.tolist()
    return hard


def foreground(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of any class but the background, (...) from (..., logits)."""
    if logits.shape[-1] == 1:
        return special.expit(logits[..., 0])
    return 1.0 - special.softmax(logits, axis=-1)[..., 0]


def return_to_hard(numbers: tf.data.Dataset, hard: Hard | None, fraction: float) -> tf.data.Dataset:
    """Replaces a share of the numbers by hard ones, as a function of the number alone."""
    if not hard or isinstance(hard, Mapping):
        return numbers
    table, period = tf.constant(list(hard), tf.int64), round(1 / fraction)

    def replace(number: tf.Tensor) -> tf.Tensor:
        hard_number = tf.gather(table, number // period % len(hard))
        return tf.where(number % period == 0, hard_number, number)

    return numbers.map(replace)


def sample_window(step: int, batch_size: int, most: int) -> list[int]:
    """Returns the numbers of the last samples before a step, evenly picked, at most `most`."""
    last = step * batch_size
    stride = max(1, math.ceil(last / most))
    return list(range(0, last, stride))
