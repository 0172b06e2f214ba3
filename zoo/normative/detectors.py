"""Detects outliers: scores how far a code lies from the codes of controls at the same place.

Every detector takes `latents[control, voxel, d]` and scores each voxel by itself, thousands at a time:

    fitted = Moments().fit(latents)
    fitted.null                  # (controls, voxels): each control scored by the controls of other people
    fitted.score(others)         # (people, voxels): larger is less normal

A voxel's state is a few arrays, stored as npz; `fit(shards=FOLDER)` continues where it was stopped.
"""

import abc
import concurrent.futures as futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from zoo import files
from zoo.normative import one_class_svm
from zoo.normative.one_class_svm import score_within_person as score_within_person
from zoo.normative.owners import LEAST_CONTROLS, number_people

State = dict[str, np.ndarray]
Progress = Callable[[int, int], None]
BLOCK = 2048  # voxels at once: their Gram matrices stay in a processor's cache
LEAST_BLOCK = 64  # voxels at once where each has many neighbours


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Fits and scores block by block of voxels; the base class of all detectors."""

    name: ClassVar[str]

    def fit(
        self,
        latents: np.ndarray,
        *,
        people: Sequence[str] | None = None,
        neighbours: np.ndarray | None = None,
        shards: pathlib.Path | None = None,
        progress: Progress | None = None,
    ) -> "FittedDetector":
        """Learns what is normal at each voxel, and scores each control by those of other people.

        Args:
            latents: (controls, voxels, d), in memory or mapped from a file.
            people: whose scan each control is; None where everybody has one.
            neighbours: (voxels, n) indices of the voxels whose codes a voxel is compared with, itself first; None for
                itself alone.
            shards: a folder for finished blocks; blocks in it are not computed again.
            progress: called with the voxels done and all of them.

        Raises:
            ValueError: the latents are not 3D, there are fewer than three controls or people, or not a name for each.
        """
        if latents.ndim != 3 or len(latents) < LEAST_CONTROLS:
            raise ValueError(
                f"Detectors take latents[control, voxel, d] of {LEAST_CONTROLS} controls or more, got shape "
                f"{tuple(latents.shape)}."
            )
        owners = number_people(people, len(latents))
        near = np.arange(latents.shape[1])[:, None] if neighbours is None else neighbours
        shared, voxels, parts = self.learn_shared(latents), latents.shape[1], []
        block = max(BLOCK // near.shape[1], LEAST_BLOCK) if near.shape[1] > 1 else BLOCK

        def learn_block(first: int) -> State:
            learn = functools.partial(self._learn_block, latents, near[first : first + block], owners, shared)
            return _cached(shards, f"{self.name}_{first:08d}", learn)

        starts = range(0, voxels, block)
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter while it computes
            try:
                for first, part in zip(starts, pool.map(learn_block, starts), strict=True):
                    parts.append(part)
                    if progress:
                        progress(min(first + block, voxels), voxels)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        state = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        null = state.pop("null").T
        return FittedDetector(self, state, shared, null)

    def _learn_block(self, latents: np.ndarray, near: np.ndarray, owners: np.ndarray, shared: State) -> State:
        part = np.asarray(latents[:, near[:, 0]] if near.shape[1] == 1 else latents[:, near], np.float32)
        # A voxel's own codes come first, so that they alone are scored.
        codes = np.moveaxis(part.reshape(len(part), len(near), near.shape[1], -1), (1, 2), (0, 1))
        codes = np.ascontiguousarray(codes.reshape(len(near), -1, part.shape[-1]))
        if near.shape[1] == 1 and len(np.unique(owners)) == len(owners):
            state, null = self.learn(codes, shared)
        else:
            state, null = self.learn_by_person(codes, np.tile(owners, near.shape[1]), len(owners), shared)
        return {**state, "null": null.astype(np.float32)}

    def learn_by_person(
        self, codes: np.ndarray, owners: np.ndarray, count: int, shared: State
    ) -> tuple[State, np.ndarray]:
        """Returns the state of voxels, and scores of the first `count` codes by the codes of other people.

        Args:
            codes: (voxels, n, d), of which the first `count` are the voxels' own.
            owners: (n,) whose each code is.
            count: number of controls.
            shared: what `learn_shared` returned.
        """
        state, _ = self.learn(codes, shared)
        null = np.empty((len(codes), count), np.float32)
        for person in np.unique(owners):
            of_others, _ = self.learn(codes[:, owners != person], shared)
            own = np.flatnonzero(owners[:count] == person)
            null[:, own] = self.score(of_others, codes[:, own], shared)
        return state, null

    def learn_shared(self, latents: np.ndarray) -> State:
        """Returns the arrays that all voxels share; none for most detectors."""
        return {}

    @abc.abstractmethod
    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Returns the state of voxels with codes (voxels, controls, d), and leave-one-out scores (voxels, controls)."""

    @abc.abstractmethod
    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns scores (voxels, people) of codes (voxels, people, d)."""


@dataclasses.dataclass(frozen=True)
class FittedDetector:
    """A detector fitted to controls.

    Attributes:
        detector: the detector with its settings.
        state: arrays with the voxel as their first axis.
        shared: arrays that all voxels use.
        null: (controls, voxels) float32, each control scored by the others.
    """

    detector: Detector
    state: State
    shared: State
    null: np.ndarray

    def score(self, latents: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
        """Returns scores (people, voxels) float32 of latents (people, voxels, d); larger is less normal.

        Raises:
            ValueError: another number of voxels than was fitted.
        """
        voxels = self.null.shape[1]
        if latents.ndim != 3 or latents.shape[1] != voxels:
            raise ValueError(
                f"This detector knows {voxels} voxels: give latents[person, voxel, d], got {latents.shape}."
            )
        scores = np.empty(latents.shape[:2], np.float32)
        for first in range(0, voxels, BLOCK):
            part = slice(first, first + BLOCK)
            codes = np.swapaxes(np.asarray(latents[:, part], np.float32), 0, 1)
            scores[:, part] = self.detector.score(
                {key: value[part] for key, value in self.state.items()}, codes, self.shared
            ).T
            if progress:
                progress(min(first + BLOCK, voxels), voxels)
        return scores


def _cached(folder: pathlib.Path | None, name: str, make: Callable[[], dict[str, Any]]) -> State:
    """Returns a block from its shard, or makes and writes it."""
    if folder is None:
        return make()
    return files.cached_arrays(folder / f"{name}.npz", make, compress=False)


def _centre(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = codes.mean(axis=1, keepdims=True)
    return codes - mean, mean


@dataclasses.dataclass(frozen=True)
class Centre(Detector):
    """Scores the distance from the controls' mean code: the simplest detector.

    Example:
        >>> fitted = Centre().fit(np.random.default_rng(0).normal(size=(5, 2, 3)))
        >>> fitted.null.shape
        (5, 2)
    """

    name: ClassVar[str] = "centre"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Learns the mean; a control that is left out lies n / (n - 1) as far from the others' mean."""
        residual, mean = _centre(codes)
        count = codes.shape[1]
        return {"mean": mean[:, 0]}, np.linalg.norm(residual, axis=-1) * count / (count - 1)

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns Euclidean distances."""
        return np.linalg.norm(codes - state["mean"][:, None], axis=-1)


@dataclasses.dataclass(frozen=True)
class Nearest(Detector):
    """Scores the mean distance to the k nearest controls, without a model of their spread.

    Attributes:
        k: number of controls.
    """

    k: int = 3
    name: ClassVar[str] = "nearest"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Keeps the codes; a control that is left out has the others as neighbours."""
        squares = one_class_svm.square_distances(codes, codes)
        squares[:, np.arange(codes.shape[1]), np.arange(codes.shape[1])] = np.inf
        return {"codes": codes.astype(np.float16)}, self._mean_nearest(squares)

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns mean distances to the nearest controls."""
        return self._mean_nearest(one_class_svm.square_distances(codes, state["codes"].astype(np.float32)))

    def _mean_nearest(self, squares: np.ndarray) -> np.ndarray:
        k = min(self.k, squares.shape[-1] - 1)
        return np.sqrt(np.partition(squares, k - 1, axis=-1)[..., :k]).mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class Mahalanobis(Detector):
    """Scores the Mahalanobis distance with the covariance of each voxel, shrunk towards a sphere of the same size.

    `C = (1 - shrinkage) S + shrinkage tr(S) / d I`. With fewer controls than numbers in a code the inverse is
    computed from the Gram matrix of the controls, which is smaller. Leaving one out is exact (Sherman and Morrison)
    but for the size of the sphere, which stays that of all.

    Attributes:
        shrinkage: 0 to 1, more than 0.
    """

    shrinkage: float = 0.03
    name: ClassVar[str] = "mahalanobis"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Learns the mean and the centred codes."""
        residual, mean = _centre(codes)
        count, size = codes.shape[1:]
        gram = np.matmul(residual, np.swapaxes(residual, 1, 2))
        sphere = self.shrinkage * np.einsum("vii->v", gram) / count / size + 1e-12
        part = 1 - self.shrinkage
        others = part / (count - 1)  # the factor of S when one is out, before its own share is taken away
        quadratic = _quadratic_form(gram, gram, np.einsum("vii->vi", gram), sphere, others)
        beta = part * count / (count - 1) ** 2
        square = (count / (count - 1)) ** 2 * quadratic / np.maximum(1 - beta * quadratic, 1e-6)
        state = {"mean": mean[:, 0], "apart": residual.astype(np.float16), "sphere": sphere.astype(np.float32)}
        return state, np.sqrt(square)

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns Mahalanobis distances."""
        controls, away = state["apart"].astype(np.float32), codes - state["mean"][:, None]
        gram = np.matmul(controls, np.swapaxes(controls, 1, 2))
        products = np.matmul(controls, np.swapaxes(away, 1, 2))
        part = (1 - self.shrinkage) / controls.shape[1]
        return np.sqrt(_quadratic_form(gram, products, np.sum(away**2, axis=-1), state["sphere"], part))


def _quadratic_form(
    gram: np.ndarray, products: np.ndarray, lengths: np.ndarray, sphere: Any, part: float
) -> np.ndarray:
    """Returns `z' (part R'R + sphere I)^-1 z`, (voxels, people), from `R R'`, `R z` and `z'z`."""
    if part <= 0:
        return lengths / sphere[:, None]
    ridged = gram + (sphere / part)[:, None, None] * np.eye(gram.shape[1], dtype=gram.dtype)
    solved = np.linalg.solve(ridged, products)
    return np.maximum(lengths - np.sum(products * solved, axis=1), 0) / sphere[:, None]


@dataclasses.dataclass(frozen=True)
class Moments(Mahalanobis):
    """Scores the Mahalanobis distance along the leading axes of the brain's codes.

    Keeps `axes (axes + 3) / 2` numbers per voxel, however many controls: small enough to be shipped.

    Attributes:
        axes: number of axes along which codes of the whole brain vary most; None for all.
    """

    axes: int | None = 24
    name: ClassVar[str] = "moments"

    def learn_shared(self, latents: np.ndarray) -> State:
        """Returns the leading axes as a matrix (d, axes)."""
        sample = np.linspace(0, latents.shape[1] - 1, min(latents.shape[1], 4096)).astype(int)
        codes = np.asarray(latents[:, sample], np.float32).reshape(-1, latents.shape[-1])
        values, vectors = np.linalg.eigh(np.cov(codes.T))
        return {"axes": vectors[:, np.argsort(values)[::-1][: self.axes]].astype(np.float32)}

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Learns the mean, and the triangular factor of the inverse of the shrunk covariance."""
        along = codes @ shared["axes"]
        _, null = super().learn(along, shared)
        residual, mean = _centre(along.astype(np.float64))
        covariance = np.matmul(np.swapaxes(residual, 1, 2), residual) / codes.shape[1]
        return self._make_state(mean[:, 0], covariance), null

    def learn_by_person(
        self, codes: np.ndarray, owners: np.ndarray, count: int, shared: State
    ) -> tuple[State, np.ndarray]:
        """Returns the same as that of any detector, from sums over each person's codes."""
        along = (codes @ shared["axes"]).astype(np.float64)
        along -= (origin := along.mean(axis=1, keepdims=True))
        parts = [along[:, owners == person] for person in np.unique(owners)]
        sums = np.stack([part.sum(axis=1) for part in parts])
        squares = np.stack([np.matmul(np.swapaxes(part, 1, 2), part) for part in parts])
        all_sums, all_squares, null = sums.sum(axis=0), squares.sum(axis=0), np.empty((len(codes), count), np.float32)
        for number, person in enumerate(np.unique(owners)):
            others, own = np.count_nonzero(owners != person), np.flatnonzero(owners[:count] == person)
            mean = (all_sums - sums[number]) / others
            spread = (all_squares - squares[number]) / others - mean[:, :, None] * mean[:, None]
            state = self._make_state(mean, spread, kept=np.float32)
            null[:, own] = self._measure(state, along[:, own].astype(np.float32))
        mean = all_sums / len(owners)
        spread = all_squares / len(owners) - mean[:, :, None] * mean[:, None]
        return self._make_state(mean + origin[:, 0], spread), null

    def _make_state(self, mean: np.ndarray, covariance: np.ndarray, *, kept: type = np.float16) -> State:
        size = mean.shape[-1]
        sphere = self.shrinkage * np.einsum("vii->v", covariance) / size + 1e-12
        shrunk = (1 - self.shrinkage) * covariance + sphere[:, None, None] * np.eye(size)
        factor = np.linalg.cholesky(np.linalg.inv(shrunk))
        return {"mean": mean.astype(kept), "factor": factor[:, *np.tril_indices(size)].astype(kept)}

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns Mahalanobis distances."""
        return self._measure(state, codes @ shared["axes"])

    def _measure(self, state: Mapping[str, np.ndarray], along: np.ndarray) -> np.ndarray:
        away = along - state["mean"].astype(np.float32)[:, None]
        size = away.shape[-1]
        factor = np.zeros((len(away), size, size), np.float32)
        factor[:, *np.tril_indices(size)] = state["factor"]
        return np.linalg.norm(np.matmul(away, factor), axis=-1)


@dataclasses.dataclass(frozen=True)
class OneClass(Detector):
    """Scores by a one-class support vector machine per voxel, RBF kernel, gamma as scikit-learn's "scale".

    Attributes:
        nu: share of the controls that may lie outside.

    Source: Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618.
    """

    nu: float = 0.03
    name: ClassVar[str] = "one_class"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Learns weights and offset; each control is scored by a machine that never saw it, at the gamma of all."""
        gamma = one_class_svm.scale_gamma(codes).astype(np.float32)
        gram = one_class_svm.rbf_kernel(codes, codes, gamma)
        weights, offset = one_class_svm.solve(gram, self.nu)
        count = codes.shape[1]
        null = np.empty(codes.shape[:2], np.float32)
        for out in range(count):
            upper = (np.arange(count) != out).astype(np.float32)
            others, rho = one_class_svm.solve(gram, self.nu, upper=upper, start=weights * upper)
            null[:, out] = rho - np.einsum("vi,vi->v", others, gram[:, out])
        state = {"codes": codes.astype(np.float16), "weights": weights, "offset": offset, "gamma": gamma}
        return state, null

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns decisions with their sign changed: over 0 is outside."""
        near = one_class_svm.rbf_kernel(state["codes"].astype(np.float32), codes, state["gamma"])
        return state["offset"][:, None] - np.einsum("vi,vim->vm", state["weights"], near)


DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector for detector in (Centre, Mahalanobis, Moments, Nearest, OneClass)
}
