"""Draws the case and the voxel at the centre of the n-th patch, from the seed and n alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.errors import unknown_choice

ANYWHERE, HARD = -1, -2  # kinds of place beside the class indices


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of how patch centres are drawn.

    Of any n patches in a row, counted from the first, exactly floor(n * positive_fraction) are centred on foreground
    (near an edge the patch is moved inside; the voxel stays in it). Of the others, floor(m * hard_fraction) of m are
    centred on `hard_places`, and the rest on background, case after case in a new random order each round.

    Attributes:
        positive_fraction: share of patches on foreground, 0 to 1, exact to a thousandth. Default: nnU-Net's.
        class_weights: class index -> frequency relative to the others; None draws every class equally often.
        hard_fraction: share of the other patches that are centred on hard places.
        hard_places: case id -> (n, 3) voxels of the cached grid, from `mine`; mine again every few epochs and remake
            the data set with `Stream(start=...)`.
        jitter: greatest shift of a centre along each axis, as a share of the patch, 0 to 0.5, so that a lesion is not
            always in the middle.
    """

    positive_fraction: float = 1 / 3
    class_weights: Mapping[int, float] | None = None
    hard_fraction: float = 0.0
    hard_places: Mapping[str, Any] = field(default_factory=dict)
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("positive_fraction", 1), ("hard_fraction", 1), ("jitter", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"{name} goes from 0 to {most}, got {value!r}.")
        if self.hard_fraction and not sum(len(places) for places in self.hard_places.values()):
            raise ValueError(f"hard_fraction={self.hard_fraction} needs hard_places, and there are none. Mine some.")


@dataclass(frozen=True)
class Plan:
    """A sampling, fitted to the cases of a cache by `plan`.

    Attributes:
        sampling: the settings.
        counts: (cases, classes) int64, remembered places of each class in each case.
        carriers: (classes, cases) int64, the cases that have a class, then padding.
        num_carriers: (classes,) int64.
        shares: (classes,) float64, the cumulated share of each class among foreground patches; all 0 without any.
        hard: (n, 4) int64, case number and voxel.
    """

    sampling: Sampling
    counts: np.ndarray
    carriers: np.ndarray
    num_carriers: np.ndarray
    shares: np.ndarray
    hard: np.ndarray

    def draw(self, number: tf.Tensor, seed: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws a place.

        Args:
            number: int64 scalar, which patch, from 0.
            seed: of the stream.

        Returns:
            Case number; kind of the place, a class index, `ANYWHERE` or `HARD`; which place of that kind. All int64.
        """
        uniform = tf.random.stateless_uniform([3], seed=tf.stack([tf.cast(seed, tf.int64), number]), dtype=tf.float64)
        positive, num_positive = _schedule(number, self.sampling.positive_fraction if self.shares.any() else 0.0)
        rest = number - num_positive
        hard, num_hard = _schedule(rest, self.sampling.hard_fraction)
        kinds = [
            (positive, lambda: self._draw_positive(uniform)),
            (hard, lambda: self._draw_hard(uniform)),
        ]
        return tf.case(kinds, default=lambda: self._draw_background(rest - num_hard, uniform, seed))

    def _draw_positive(self, uniform: tf.Tensor) -> tuple[tf.Tensor, ...]:
        label = tf.searchsorted(tf.constant(self.shares), uniform[:1], side="right", out_type=tf.int64)[0]
        case = tf.gather_nd(self.carriers, tf.stack([label, _pick(uniform[1], tf.gather(self.num_carriers, label))]))
        return case, label, _pick(uniform[2], tf.gather_nd(self.counts, tf.stack([case, label])))

    def _draw_hard(self, uniform: tf.Tensor) -> tuple[tf.Tensor, ...]:
        row = _pick(uniform[0], tf.constant(len(self.hard), tf.int64))
        return tf.gather(self.hard, row)[0], tf.constant(HARD, tf.int64), row

    def _draw_background(self, number: tf.Tensor, uniform: tf.Tensor, seed: int) -> tuple[tf.Tensor, ...]:
        num_cases = len(self.counts)
        key = tf.stack([tf.cast(seed, tf.int64) ^ 0x5EED, number // num_cases])
        order = tf.random.experimental.stateless_shuffle(tf.range(num_cases, dtype=tf.int64), key)
        case = order[number % num_cases]
        count = tf.gather(self.counts[:, 0], case)
        return case, tf.where(count > 0, tf.constant(0, tf.int64), ANYWHERE), _pick(uniform[2], count)


def plan(counts: np.ndarray, ids: Sequence[str], sampling: Sampling) -> Plan:
    """Fits a sampling to the cases.

    Args:
        counts: (cases, classes) remembered places; no class at all for cases without labels.
        ids: of the cases, in the same order.
        sampling: the settings.

    Raises:
        ValueError: foreground is asked for where no case has any, or a class or case that does not exist.
    """
    counts = np.asarray(counts, np.int64).reshape(len(ids), -1)
    labelled = counts.shape[1] > 0
    counts = counts if labelled else np.zeros((len(ids), 1), np.int64)
    present = [index for index in range(1, counts.shape[1]) if counts[:, index].any()]
    if labelled and sampling.positive_fraction and not present:
        raise ValueError(
            f"No case of {len(ids)} has a voxel of foreground, and positive_fraction={sampling.positive_fraction:g}. "
            "Check the label values (Reading(labels=...)), or set positive_fraction=0."
        )
    carriers = np.argsort(counts.T == 0, axis=1, kind="stable")
    shares = _cumulate_shares(counts.shape[1], present, sampling.class_weights)
    return Plan(sampling, counts, carriers, (counts > 0).sum(0), shares, _list_hard_rows(ids, sampling.hard_places))


def mine(probability: np.ndarray, labels: np.ndarray, *, num: int, threshold: float = 0.5) -> np.ndarray:
    """Finds the hardest false positives of one case, for `Sampling.hard_places`.

    Args:
        probability: (x, y, z) of foreground, from a prediction on the cached grid.
        labels: (x, y, z), 0 is background.
        num: most voxels to return.
        threshold: least probability.

    Returns:
        (n, 3) int64 voxels, the most probable first; n may be 0.

    Raises:
        ValueError: the two differ in shape.
    """
    if probability.shape != labels.shape:
        raise ValueError(f"probability has shape {probability.shape} and labels {labels.shape}. Use the same grid.")
    wrong = np.flatnonzero((labels == 0) & (probability >= threshold))
    order = np.argsort(-probability.reshape(-1)[wrong], kind="stable")[:num]
    return np.stack(np.unravel_index(wrong[order], labels.shape), -1).astype(np.int64)


def _cumulate_shares(num_classes: int, present: list[int], weights: Mapping[int, float] | None) -> np.ndarray:
    """Cumulates the shares of classes, so that the first one above a number in [0, 1) is the class drawn."""
    shares = np.zeros(num_classes)
    for index, weight in (dict.fromkeys(present, 1.0) if weights is None else weights).items():
        if index not in present:
            raise unknown_choice("foreground class in the labels:", index, map(str, present))
        if weight < 0:
            raise ValueError(f"The weight of class {index} must be 0 or more, got {weight}.")
        shares[index] = weight
    if present and not shares.any():
        raise ValueError(f"class_weights are all 0: {weights}. Give at least one class a weight.")
    total = shares.cumsum()
    return total / total[-1] if shares.any() else shares


def _list_hard_rows(ids: Sequence[str], places: Mapping[str, Any]) -> np.ndarray:
    for key in places:
        if key not in ids:
            raise unknown_choice("case for hard_places:", key, ids)
    rows = [[ids.index(key), *voxel] for key, voxels in places.items() for voxel in np.asarray(voxels).tolist()]
    return np.asarray(rows, np.int64).reshape(-1, 4)


def _schedule(number: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns whether turn `number` belongs to an evenly spread share, and how many turns before it do, exactly."""
    ratio = Fraction(share).limit_denominator(1000)
    before = number * ratio.numerator // ratio.denominator
    return (number + 1) * ratio.numerator // ratio.denominator > before, before


def _pick(uniform: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Maps a uniform number in [0, 1) to a whole number from 0 to count - 1."""
    return tf.cast(uniform * tf.cast(count, tf.float64), tf.int64)
