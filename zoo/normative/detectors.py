"""Detects outliers: scores how far a code lies from the codes of controls at the same place.

Every detector takes `latents[control, voxel, d]` and scores each voxel by itself, thousands at a time:

    fitted = Moments().fit(latents)
    fitted.null                  # (controls, voxels): each control scored by the others
    fitted.score(others)         # (people, voxels): larger is less normal

A voxel's state is a few arrays, stored as npz; `fit(shards=FOLDER)` continues where it was stopped.
"""

import abc
import concurrent.futures as futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from zoo import files
from zoo.normative import one_class_svm

State = dict[str, np.ndarray]
Progress = Callable[[int, int], None]
BLOCK = 2048  # voxels at once: their Gram matrices stay in a processor's cache
LEAST_CONTROLS = 3


@dataclasses.dataclass(frozen=True)
class Detector(abc.ABC):
    """Fits and scores block by block of voxels; the base class of all detectors."""

    name: ClassVar[str]

    def fit(
        self, latents: np.ndarray, *, shards: pathlib.Path | None = None, progress: Progress | None = None
    ) -> "FittedDetector":
        """Learns what is normal at each voxel, and scores each control by the others.

        Args:
            latents: (controls, voxels, d), in memory or mapped from a file.
            shards: a folder for finished blocks; blocks in it are not computed again.
            progress: called with the voxels done and all of them.

        Raises:
            ValueError: the latents are not 3D, or fewer than three controls.
        """
        if latents.ndim != 3 or len(latents) < LEAST_CONTROLS:
            raise ValueError(
                f"Detectors take latents[control, voxel, d] of {LEAST_CONTROLS} controls or more, got shape "
                f"{tuple(latents.shape)}."
            )
        shared, voxels, parts = self.learn_shared(latents), latents.shape[1], []

        def learn_block(first: int) -> State:
            part = latents[:, first : first + BLOCK]
            return _cached(shards, f"{self.name}_{first:08d}", functools.partial(self._learn_block, part, shared))

        starts = range(0, voxels, BLOCK)
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter while it computes
            try:
                for first, part in zip(starts, pool.map(learn_block, starts), strict=True):
                    parts.append(part)
                    if progress:
                        progress(min(first + BLOCK, voxels), voxels)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        state = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        null = state.pop("null").T
        return FittedDetector(self, state, shared, null)

    def _learn_block(self, part: np.ndarray, shared: State) -> State:
        codes = np.swapaxes(np.asarray(part, np.float32), 0, 1)
        state, null = self.learn(np.ascontiguousarray(codes), shared)
        return {**state, "null": null.astype(np.float32)}

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
        state, null = super().learn(along, shared)
        residual, mean = _centre(along.astype(np.float64))
        covariance = np.matmul(np.swapaxes(residual, 1, 2), residual) * (1 - self.shrinkage) / codes.shape[1]
        covariance += state["sphere"][:, None, None] * np.eye(along.shape[-1])
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        below = np.tril_indices(along.shape[-1])
        return {"mean": mean[:, 0].astype(np.float16), "factor": factor[:, *below].astype(np.float16)}, null

    def score(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Returns Mahalanobis distances."""
        away = codes @ shared["axes"] - state["mean"].astype(np.float32)[:, None]
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


def score_within_person(codes: np.ndarray, *, nu: float = 0.03, sample: int = 400, seed: int = 0) -> np.ndarray:
    """Scores a person's codes by a machine fitted to that person alone: what is rare in this brain stands out.

    Args:
        codes: (voxels, d), codes of one person.
        nu: share of the brain that may lie outside.
        sample: number of voxels that the machine is fitted to.
        seed: seed of their choice.

    Returns:
        (voxels,) float32; larger is less normal.

    Example:
        >>> score_within_person(np.random.default_rng(0).normal(size=(30, 3))).shape
        (30,)

    Source: Pinon et al., MIDL 2023, arXiv 2302.01066.
    """
    indices = np.random.default_rng(seed).choice(len(codes), min(sample, len(codes)), replace=False)
    fitted = np.asarray(codes[indices], np.float32)[None]
    gamma = one_class_svm.scale_gamma(fitted).astype(np.float32)
    weights, offset = one_class_svm.solve(one_class_svm.rbf_kernel(fitted, fitted, gamma), nu)
    scores = [
        offset[0] - weights[0] @ one_class_svm.rbf_kernel(fitted, np.asarray(part, np.float32)[None], gamma)[0]
        for part in np.array_split(codes, max(1, len(codes) // BLOCK))
    ]
    return np.concatenate(scores)


DETECTORS: dict[str, type[Detector]] = {
    detector.name: detector for detector in (Centre, Mahalanobis, Moments, Nearest, OneClass)
}
