"""Normative models: what codes are normal at each place of the common space, fitted to controls and kept as npz.

The codes may come from any network, as long as they lie on a grid of every `step`-th voxel of the common space.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from zoo import files
from zoo.errors import unknown_choice
from zoo.normative.calibration import Calibration
from zoo.normative.detectors import DETECTORS, Detector, Fitted, Progress

FILE = "normative.npz"
FORMAT = 1
Encode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Normative:
    """A detector and its calibration, with the places that they know.

    Attributes:
        fitted: the detector.
        calibration: from its scores to z.
        places: (voxels, 3) int16, entries of the grid of codes.
        shape: of the common space in voxels.
        step: voxels from code to code.
        template: `shape` uint8, the label map that brains are laid on.
        controls: how many people it was fitted to.
    """

    fitted: Fitted
    calibration: Calibration
    places: np.ndarray
    shape: tuple[int, int, int]
    step: int
    template: np.ndarray
    controls: int

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid of codes."""
        return tuple(-(-size // self.step) for size in self.shape)

    def z_map(self, codes: np.ndarray) -> np.ndarray:
        """How far one person's codes lie out, as normal deviates.

        Args:
            codes: (*grid, d), as the network gives them.

        Returns:
            `grid` float32; 0 where nothing is known.

        Raises:
            ValueError: codes on another grid.
        """
        if codes.shape[:3] != self.grid:
            raise ValueError(
                f"This model knows a grid of {self.grid} codes, got {codes.shape[:3]}. Use step={self.step}."
            )
        z = self.calibration.z(self.fitted.score(gather(codes, self.places)[None]))[0]
        return self.on_grid(z)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values (voxels,) at their places on the grid of codes, 0 elsewhere."""
        found = np.zeros(self.grid, np.float32)
        found[tuple(self.places.T)] = values
        return found

    def write(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes everything as npz, whole or not at all; arrays and one line of JSON, no pickle."""
        path = pathlib.Path(path)
        settings = {"detector": self.fitted.detector.name, **dataclasses.asdict(self.fitted.detector)}
        told = {
            "format": FORMAT,
            "settings": settings,
            "step": self.step,
            "shape": self.shape,
            "controls": self.controls,
        }
        arrays = {f"state_{key}": value for key, value in self.fitted.state.items()}
        arrays |= {f"shared_{key}": value for key, value in self.fitted.shared.items()}
        arrays |= {f"null_{key}": getattr(self.calibration, key) for key in ("mean", "sd", "steps")}
        arrays |= {"places": self.places, "template": self.template}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(told).encode(), np.uint8)
        with files.replacing(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, told=text, **arrays)
        return path

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Normative":
        """Reads what `write` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another file, or of another format.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no normative model at {path}. Make one with zoo fit-normative FOLDER.")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            told = json.loads(arrays.pop("told").tobytes())
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise ValueError(
                f"{path} is no normative model ({error}). Make one with zoo fit-normative FOLDER."
            ) from error
        if told.get("format") != FORMAT:
            raise ValueError(f"{path} has format {told.get('format')}, this version reads {FORMAT}. Fit it anew.")
        return cls._of(told, arrays)

    @classmethod
    def _of(cls, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Normative":
        part = lambda start: {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
        settings = dict(told["settings"])
        detector = DETECTORS[settings.pop("detector")](**settings)
        null = np.empty((told["controls"], len(arrays["places"])), np.float32)  # its numbers are in the calibration
        fitted = Fitted(detector, part("state_"), part("shared_"), null)
        calibration = Calibration(**part("null_"))
        return cls(
            fitted,
            calibration,
            arrays["places"],
            tuple(told["shape"]),
            told["step"],
            arrays["template"],
            told["controls"],
        )


def detector(name: str, **settings: Any) -> Detector:
    """A detector by name.

    Raises:
        ValueError: there is no such detector; the nearest is named.
    """
    if name not in DETECTORS:
        raise unknown_choice("detector", name, DETECTORS)
    return DETECTORS[name](**settings)


def places(region: np.ndarray, *, step: int) -> np.ndarray:
    """Entries (voxels, 3) int16 of the grid of codes whose voxel lies in a region.

    Args:
        region: (x, y, z) bool, voxels of the common space.
        step: voxels from code to code.
    """
    return np.argwhere(region[(slice(None, None, step),) * 3]).astype(np.int16)


def gather(codes: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Codes (voxels, d) at some places of their grid."""
    return codes[tuple(where.T)]


def stack(encode: Encode, people: Iterable[np.ndarray], where: np.ndarray) -> np.ndarray:
    """Codes of several people at the same places.

    Args:
        encode: from (x, y, z, channels) to codes on their grid.
        people: images in the common space.
        where: (voxels, 3).

    Returns:
        (people, voxels, d) float16.
    """
    return np.stack([gather(encode(images), where).astype(np.float16) for images in people])


def fit(
    latents: np.ndarray,
    where: np.ndarray,
    chosen: Detector,
    *,
    step: int,
    template: np.ndarray,
    shards: pathlib.Path | None = None,
    progress: Progress | None = None,
) -> Normative:
    """Fits a detector to controls and calibrates it by leaving each of them out.

    Args:
        latents: (controls, voxels, d).
        where: (voxels, 3), entries of the grid of codes.
        chosen: the detector.
        step: voxels from code to code.
        template: label map of the common space.
        shards: folder of finished blocks, to go on where an earlier fit was stopped.
        progress: called with the voxels done and all of them.
    """
    fitted = chosen.fit(latents, shards=shards, progress=progress)
    x, y, z = template.shape
    return Normative(fitted, Calibration.of(fitted.null), where, (x, y, z), step, template, len(latents))
