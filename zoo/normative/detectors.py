"""How far a code lies from the codes of controls at the same place: detectors behind one interface.

Every detector takes `latents[control, voxel, d]` and judges each voxel by itself, thousands at a time:

    fitted = Moments().fit(latents)
    fitted.null                  # (controls, voxels): each control judged by the others
    fitted.score(others)         # (people, voxels): larger is less normal

A voxel's state is a handful of arrays; they are stored as npz, and `fit(shards=FOLDER)` goes on where it was stopped.
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
    """What all detectors share: blocks of voxels, shards, progress."""

    name: ClassVar[str]

    def fit(
        self, latents: np.ndarray, *, shards: pathlib.Path | None = None, progress: Progress | None = None
    ) -> "Fitted":
        """Learns what is normal at each voxel, and how each control looks to the others.

        Args:
            latents: (controls, voxels, d), in memory or mapped from a file.
            shards: a folder where finished blocks are kept; one that is there already is not made again.
            progress: called with the voxels done and all of them.

        Raises:
            ValueError: the latents are not 3D, or fewer than three controls.
        """
        if latents.ndim != 3 or len(latents) < LEAST_CONTROLS:
            raise ValueError(
                f"Detectors take latents[control, voxel, d] of {LEAST_CONTROLS} controls or more, got shape "
                f"{tuple(latents.shape)}."
            )
        shared, voxels, parts = self.shared(latents), latents.shape[1], []

        def block(first: int) -> State:
            part = latents[:, first : first + BLOCK]
            return _kept(shards, f"{self.name}_{first:08d}", functools.partial(self._block, part, shared))

        starts = range(0, voxels, BLOCK)
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter while it computes
            try:
                for first, part in zip(starts, pool.map(block, starts), strict=True):
                    parts.append(part)
                    if progress:
                        progress(min(first + BLOCK, voxels), voxels)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        state = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        null = state.pop("null").T
        return Fitted(self, state, shared, null)

    def _block(self, part: np.ndarray, shared: State) -> State:
        codes = np.swapaxes(np.asarray(part, np.float32), 0, 1)
        state, null = self.learn(np.ascontiguousarray(codes), shared)
        return {**state, "null": null.astype(np.float32)}

    def shared(self, latents: np.ndarray) -> State:
        """What all voxels have in common; nothing for most detectors."""
        return {}

    @abc.abstractmethod
    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """State of some voxels from codes (voxels, controls, d), and scores (voxels, controls) by leaving each out."""

    @abc.abstractmethod
    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Scores (voxels, people) of codes (voxels, people, d)."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A detector that knows its controls.

    Attributes:
        detector: which one, with its settings.
        state: arrays with the voxel as their first axis.
        shared: arrays that all voxels use.
        null: (controls, voxels) float32, each control judged by the others.
    """

    detector: Detector
    state: State
    shared: State
    null: np.ndarray

    def score(self, latents: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
        """Scores (people, voxels) float32 of latents (people, voxels, d); larger is less normal.

        Raises:
            ValueError: other voxels than those that were fitted.
        """
        voxels = self.null.shape[1]
        if latents.ndim != 3 or latents.shape[1] != voxels:
            raise ValueError(
                f"This detector knows {voxels} voxels: give latents[person, voxel, d], got {latents.shape}."
            )
        found = np.empty(latents.shape[:2], np.float32)
        for first in range(0, voxels, BLOCK):
            part = slice(first, first + BLOCK)
            codes = np.swapaxes(np.asarray(latents[:, part], np.float32), 0, 1)
            found[:, part] = self.detector.judge(
                {key: value[part] for key, value in self.state.items()}, codes, self.shared
            ).T
            if progress:
                progress(min(first + BLOCK, voxels), voxels)
        return found


def _kept(folder: pathlib.Path | None, name: str, make: Callable[[], dict[str, Any]]) -> State:
    """A block from its shard, or made and written, whole or not at all."""
    if folder is None:
        return make()
    return files.cached_arrays(folder / f"{name}.npz", make, compress=False)


def _centred(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = codes.mean(axis=1, keepdims=True)
    return codes - mean, mean


@dataclasses.dataclass(frozen=True)
class Centre(Detector):
    """Distance from the controls' mean code: the least that a detector can do."""

    name: ClassVar[str] = "centre"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """The mean; a control that is left out lies n / (n - 1) as far from the others' mean."""
        apart, mean = _centred(codes)
        count = codes.shape[1]
        return {"mean": mean[:, 0]}, np.linalg.norm(apart, axis=-1) * count / (count - 1)

    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Euclidean distances."""
        return np.linalg.norm(codes - state["mean"][:, None], axis=-1)


@dataclasses.dataclass(frozen=True)
class Nearest(Detector):
    """Mean distance to the k nearest controls: no shape is assumed.

    Attributes:
        k: how many.
    """

    k: int = 3
    name: ClassVar[str] = "nearest"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """The codes themselves; a control that is left out has the others as neighbours."""
        squares = one_class_svm.square_distances(codes, codes)
        squares[:, np.arange(codes.shape[1]), np.arange(codes.shape[1])] = np.inf
        return {"codes": codes.astype(np.float16)}, self._mean(squares)

    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Mean distances to the nearest."""
        return self._mean(one_class_svm.square_distances(codes, state["codes"].astype(np.float32)))

    def _mean(self, squares: np.ndarray) -> np.ndarray:
        k = min(self.k, squares.shape[-1] - 1)
        return np.sqrt(np.partition(squares, k - 1, axis=-1)[..., :k]).mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class Mahalanobis(Detector):
    """Mahalanobis distance with the covariance of each voxel, shrunk towards a sphere of its own size.

    `C = (1 - shrinkage) S + shrinkage tr(S) / d I`. With fewer controls than numbers in a code the inverse is had from
    the Gram matrix of the controls, which is smaller; leaving one out is exact, by Sherman and Morrison, but for the
    sphere's size, which stays that of all.

    Attributes:
        shrinkage: 0 to 1, more than 0.
    """

    shrinkage: float = 0.03
    name: ClassVar[str] = "mahalanobis"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Centred codes, and the inverse of their ridged Gram matrix."""
        apart, mean = _centred(codes)
        count, size = codes.shape[1:]
        gram = np.matmul(apart, np.swapaxes(apart, 1, 2))
        sphere = self.shrinkage * np.einsum("vii->v", gram) / count / size + 1e-12
        part = 1 - self.shrinkage
        others = part / (count - 1)  # what is left of S when one is out, before its own share is taken away
        quadratic = _quadratic(gram, gram, np.einsum("vii->vi", gram), sphere, others)
        beta = part * count / (count - 1) ** 2
        square = (count / (count - 1)) ** 2 * quadratic / np.maximum(1 - beta * quadratic, 1e-6)
        state = {"mean": mean[:, 0], "apart": apart.astype(np.float16), "sphere": sphere.astype(np.float32)}
        return state, np.sqrt(square)

    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Distances."""
        apart, away = state["apart"].astype(np.float32), codes - state["mean"][:, None]
        gram = np.matmul(apart, np.swapaxes(apart, 1, 2))
        products = np.matmul(apart, np.swapaxes(away, 1, 2))
        part = (1 - self.shrinkage) / apart.shape[1]
        return np.sqrt(_quadratic(gram, products, np.sum(away**2, axis=-1), state["sphere"], part))


def _quadratic(gram: np.ndarray, products: np.ndarray, lengths: np.ndarray, sphere: Any, part: float) -> np.ndarray:
    """`z' (part R'R + sphere I)^-1 z` from `R R'`, `R z` (voxels, controls, people) and `z'z` (voxels, people)."""
    if part <= 0:
        return lengths / sphere[:, None]
    ridged = gram + (sphere / part)[:, None, None] * np.eye(gram.shape[1], dtype=gram.dtype)
    solved = np.linalg.solve(ridged, products)
    return np.maximum(lengths - np.sum(products * solved, axis=1), 0) / sphere[:, None]


@dataclasses.dataclass(frozen=True)
class Moments(Mahalanobis):
    """The same distance along the leading axes of the brain's codes, kept as a mean and a covariance for each voxel.

    `axes (axes + 3) / 2` numbers a voxel, however many controls: small enough to be shipped.

    Attributes:
        axes: how many, those along which codes of the whole brain vary most; None for all.
    """

    axes: int | None = 24
    name: ClassVar[str] = "moments"

    def shared(self, latents: np.ndarray) -> State:
        """(d, axes): multiplies a code into the leading axes."""
        chosen = np.linspace(0, latents.shape[1] - 1, min(latents.shape[1], 4096)).astype(int)
        codes = np.asarray(latents[:, chosen], np.float32).reshape(-1, latents.shape[-1])
        values, vectors = np.linalg.eigh(np.cov(codes.T))
        return {"axes": vectors[:, np.argsort(values)[::-1][: self.axes]].astype(np.float32)}

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Mean, and the triangular factor of the inverse of the shrunk covariance."""
        along = codes @ shared["axes"]
        known, null = super().learn(along, shared)
        apart, mean = _centred(along.astype(np.float64))
        covariance = np.matmul(np.swapaxes(apart, 1, 2), apart) * (1 - self.shrinkage) / codes.shape[1]
        covariance += known["sphere"][:, None, None] * np.eye(along.shape[-1])
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        below = np.tril_indices(along.shape[-1])
        return {"mean": mean[:, 0].astype(np.float16), "factor": factor[:, *below].astype(np.float16)}, null

    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Distances."""
        away = codes @ shared["axes"] - state["mean"].astype(np.float32)[:, None]
        size = away.shape[-1]
        factor = np.zeros((len(away), size, size), np.float32)
        factor[:, *np.tril_indices(size)] = state["factor"]
        return np.linalg.norm(np.matmul(away, factor), axis=-1)


@dataclasses.dataclass(frozen=True)
class OneClass(Detector):
    """A one-class support vector machine a voxel, RBF kernel, gamma as scikit-learn's "scale".

    Attributes:
        nu: share of the controls that may lie outside.

    Source: Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618.
    """

    nu: float = 0.03
    name: ClassVar[str] = "one_class"

    def learn(self, codes: np.ndarray, shared: State) -> tuple[State, np.ndarray]:
        """Weights and offset; each control is judged by a machine that never saw it, at the gamma of all."""
        gamma = one_class_svm.scale(codes).astype(np.float32)
        gram = one_class_svm.kernel(codes, codes, gamma)
        weights, offset = one_class_svm.solve(gram, self.nu)
        count = codes.shape[1]
        null = np.empty(codes.shape[:2], np.float32)
        for out in range(count):
            upper = (np.arange(count) != out).astype(np.float32)
            others, rho = one_class_svm.solve(gram, self.nu, upper=upper, start=weights * upper)
            null[:, out] = rho - np.einsum("vi,vi->v", others, gram[:, out])
        state = {"codes": codes.astype(np.float16), "weights": weights, "offset": offset, "gamma": gamma}
        return state, null

    def judge(self, state: Mapping[str, np.ndarray], codes: np.ndarray, shared: State) -> np.ndarray:
        """Decisions with their sign changed: over 0 is outside."""
        near = one_class_svm.kernel(state["codes"].astype(np.float32), codes, state["gamma"])
        return state["offset"][:, None] - np.einsum("vi,vim->vm", state["weights"], near)


def of_patient(codes: np.ndarray, *, nu: float = 0.03, sample: int = 400, seed: int = 0) -> np.ndarray:
    """One machine a person, fitted to that person's own codes: no controls, but what is rare in this brain stands out.

    Args:
        codes: (voxels, d) of one person.
        nu: share of the brain that may lie outside.
        sample: voxels that the machine is fitted to.
        seed: which ones.

    Returns:
        (voxels,) float32; larger is less normal.

    Source: Pinon et al., MIDL 2023, arXiv 2302.01066.
    """
    chosen = np.random.default_rng(seed).choice(len(codes), min(sample, len(codes)), replace=False)
    some = np.asarray(codes[chosen], np.float32)[None]
    gamma = one_class_svm.scale(some).astype(np.float32)
    weights, offset = one_class_svm.solve(one_class_svm.kernel(some, some, gamma), nu)
    found = [
        offset[0] - weights[0] @ one_class_svm.kernel(some, np.asarray(part, np.float32)[None], gamma)[0]
        for part in np.array_split(codes, max(1, len(codes) // BLOCK))
    ]
    return np.concatenate(found)


DETECTORS: dict[str, type[Detector]] = {one.name: one for one in (Centre, Mahalanobis, Moments, Nearest, OneClass)}
