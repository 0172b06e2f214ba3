"""Fits, writes and reads normative models: which codes are normal at each place of the common space.

The codes may come from any network, on a grid of every `step`-th voxel of the common space.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo import files
from zoo.arrays import Entry, first_not_finite, read_npz
from zoo.errors import to_line, unknown_choice
from zoo.normative.calibration import LADDER, Calibration
from zoo.normative.detectors import DETECTORS, Detector, FittedDetector, Progress
from zoo.normative.intensities import LOCAL, NORMALISATIONS
from zoo.normative.owners import LEAST_CONTROLS

FILE = "normative.npz"
FORMAT = 1
_ENTRIES = {
    "told": Entry("u", (None,)),
    "places": Entry("iu", (None, 3)),
    "template": Entry("u", (None, None, None)),
    **{f"null_{name}": Entry("f", (None,)) for name in ("mean", "sd", "steps")},
}
_FAMILIES = {"state_": Entry("f"), "shared_": Entry("f")}
Encode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class NormativeModel:
    """A fitted detector and its calibration at places of the common space.

    Attributes:
        fitted: the detector.
        calibration: turns its scores into z.
        places: (voxels, 3) int16, indices into the grid of codes.
        shape: shape of the common space in voxels.
        step: voxels from code to code.
        template: `shape` uint8, the label map that brains are laid on.
        controls: number of scans it was fitted to.
        intensities: how its images were normalised, one of `zoo.normative.intensities.NORMALISATIONS`.
    """

    fitted: FittedDetector
    calibration: Calibration
    places: np.ndarray
    shape: tuple[int, int, int]
    step: int
    template: np.ndarray
    controls: int
    intensities: str = LOCAL

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the grid of codes."""
        return tuple(-(-size // self.step) for size in self.shape)

    def z_map(self, codes: np.ndarray) -> np.ndarray:
        """Scores how far one person's codes lie out, as normal deviates.

        Args:
            codes: (*grid, d), the output of the encoder.

        Returns:
            `grid` float32; 0 where the model has no place.

        Raises:
            ValueError: codes on another grid, or an encoder that gives NaN.
        """
        if codes.shape[:3] != self.grid:
            raise ValueError(
                f"This model knows a grid of {self.grid} codes, got {codes.shape[:3]}. Use step={self.step}."
            )
        there = gather(codes, self.places)
        if (bad := first_not_finite(there)) is not None:  # it would lie under every threshold
            raise ValueError(
                f"The encoder gives {there[bad]} in code {bad[1]} at {self.places[bad[0]].tolist()} of its grid. Check "
                "its weights and the images."
            )
        z = self.calibration.z(self.fitted.score(there[None]))[0]
        return self.on_grid(z)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Returns values (voxels,) on the grid of codes, 0 where the model has no place."""
        volume = np.zeros(self.grid, np.float32)
        volume[tuple(self.places.T)] = values
        return volume

    def write(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes the model as npz: arrays and one line of JSON, no pickle."""
        path = pathlib.Path(path)
        settings = {"detector": self.fitted.detector.name, **dataclasses.asdict(self.fitted.detector)}
        header = {
            "format": FORMAT,
            "settings": settings,
            "step": self.step,
            "shape": self.shape,
            "controls": self.controls,
            "intensities": self.intensities,
        }
        arrays = {f"state_{key}": value for key, value in self.fitted.state.items()}
        arrays |= {f"shared_{key}": value for key, value in self.fitted.shared.items()}
        arrays |= {f"null_{key}": getattr(self.calibration, key) for key in ("mean", "sd", "steps")}
        arrays |= {"places": self.places, "template": self.template}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        with files.replacing(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, told=text, **arrays)  # the key of format 1
        return path

    @classmethod
    def read(cls, path: str | os.PathLike) -> "NormativeModel":
        """Reads a file that `write` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another file, or of another format.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no normative model at {path}. Make one with zoo fit-normative FOLDER.")
        try:
            arrays = read_npz(path, _ENTRIES, families=_FAMILIES)
            header = _read_header(arrays.pop("told"))
            return cls._from_arrays(header, arrays)
        except ValueError as error:
            raise ValueError(
                f"{path} is no normative model: {error}. Make one with zoo fit-normative FOLDER."
            ) from error

    @classmethod
    def _from_arrays(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "NormativeModel":
        def select(start: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}

        settings = dict(header["settings"])
        detector = _restore_detector(settings.pop("detector", None), settings)
        places, template, state = arrays["places"], arrays["template"], select("state_")
        # Its numbers are in the calibration, so that only its shape counts.
        null = np.broadcast_to(np.float32(0), (header["controls"], len(places)))
        fitted = FittedDetector(detector, state, select("shared_"), null)
        calibration = Calibration(arrays["null_mean"], arrays["null_sd"], arrays["null_steps"])
        x, y, z = template.shape
        model = cls(fitted, calibration, places, (x, y, z), header["step"], template, header["controls"])
        model = dataclasses.replace(model, intensities=header.get("intensities", LOCAL))
        _check_model(model, header)
        return model


def _read_header(text: np.ndarray) -> dict[str, Any]:
    """Reads the line of JSON, and checks format and types."""
    try:
        header = json.loads(text.tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"told is not JSON ({to_line(error)})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise ValueError(f"it has format {found!r}, and this version reads {FORMAT}")
    for name, least, most in (("step", 1, 1000), ("controls", LEAST_CONTROLS, 10**6)):
        value = header.get(name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"told.{name} must be a whole number from {least} to {most}, got {value!r}")
    if header.get("intensities", LOCAL) not in NORMALISATIONS:
        raise ValueError(f"told.intensities must be one of {list(NORMALISATIONS)}, got {header['intensities']!r}")
    if not isinstance(header.get("settings"), dict):
        raise ValueError(f"told.settings must be an object, got {header.get('settings')!r}")
    return header


def _restore_detector(name: Any, settings: dict[str, Any]) -> Detector:
    """Returns the detector of a file; its settings are numbers of the types that the detector has."""
    if not isinstance(name, str) or name not in DETECTORS:
        raise unknown_choice("detector", name, DETECTORS)
    fields = {field.name for field in dataclasses.fields(DETECTORS[name])}
    bad = [key for key, value in settings.items() if key not in fields or type(value) not in (int, float, type(None))]
    if bad:
        raise ValueError(f"told.settings of {name} has {', '.join(map(repr, bad))}, and {sorted(fields)} are expected")
    return DETECTORS[name](**settings)


def _check_model(model: NormativeModel, header: Mapping[str, Any]) -> None:
    """Refuses arrays that do not belong together."""
    places, count, faults = model.places, len(model.places), []
    if list(model.shape) != header.get("shape"):
        faults.append(f"template has shape {model.shape}, told.shape is {header.get('shape')!r}")
    if not count or places.min() < 0 or (places.max(0) >= model.grid).any():
        faults.append(f"places must be one or more indices into a grid of {model.grid}")
    arrays = {f"state_{key}": value for key, value in model.fitted.state.items()}
    arrays |= {"null_mean": model.calibration.mean, "null_sd": model.calibration.sd}
    faults += [
        f"{name} has {len(array) if array.ndim else 'no'} rows for {count} places"
        for name, array in arrays.items()
        if not array.ndim or len(array) != count
    ]
    if not 1 <= len(model.calibration.steps) <= len(LADDER) or (np.diff(model.calibration.steps) < 0).any():
        faults.append(f"null_steps must be 1 to {len(LADDER)} numbers that rise")
    if not (model.calibration.sd > 0).all():
        faults.append("null_sd must be positive")
    if not faults:
        _try_detector(model)
    if faults:
        raise ValueError("; ".join(faults))


def _try_detector(model: NormativeModel) -> None:
    """Scores one code at one place: arrays of another detector or another length show at once."""
    fitted, shared = model.fitted, model.fitted.shared
    first = {key: value[:1] for key, value in fitted.state.items()}
    size = len(shared["axes"]) if "axes" in shared else max(first.values(), key=np.ndim, default=np.zeros(1)).shape[-1]
    try:
        with np.errstate(all="ignore"):
            scores = fitted.detector.score(first, np.zeros((1, 1, size), np.float32), shared)
        good = np.shape(scores) == (1, 1)
    except Exception as error:  # arrays of any number of axes meet the detector's algebra here
        raise ValueError(f"its arrays are none of {fitted.detector.name!r} ({to_line(error)})") from error
    if not good:
        raise ValueError(f"its arrays give {fitted.detector.name!r} scores of shape {np.shape(scores)}")


def make_detector(name: str, **settings: Any) -> Detector:
    """Returns a detector by name.

    Raises:
        ValueError: there is no such detector; the nearest is named.

    Example:
        >>> make_detector("nearest", k=5)
        Nearest(k=5)
    """
    if name not in DETECTORS:
        raise unknown_choice("detector", name, DETECTORS)
    return DETECTORS[name](**settings)


def find_places(region: np.ndarray, *, step: int) -> np.ndarray:
    """Returns the indices (voxels, 3) int16 into the grid of codes whose voxel lies in a region.

    Args:
        region: (x, y, z) bool, voxels of the common space.
        step: voxels from code to code.

    Example:
        >>> find_places(np.ones((4, 2, 1), bool), step=3).tolist()
        [[0, 0, 0], [1, 0, 0]]
    """
    return np.argwhere(region[(slice(None, None, step),) * 3]).astype(np.int16)


def gather(codes: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns the codes (voxels, d) at places (voxels, 3) of their grid."""
    return codes[tuple(where.T)]


def encode_people(encode: Encode, people: Iterable[np.ndarray], where: np.ndarray) -> np.ndarray:
    """Encodes several people at the same places.

    Args:
        encode: maps (x, y, z, channels) to codes on their grid.
        people: images in the common space.
        where: (voxels, 3), indices into the grid of codes.

    Returns:
        (people, voxels, d) float16.
    """
    codes = [gather(encode(images), where).astype(np.float16) for images in people]
    return np.stack(codes) if codes else np.empty((0, len(where), 0), np.float16)


def find_neighbours(places: np.ndarray, radius: int) -> np.ndarray:
    """Returns the indices (voxels, n) of the places around each place, itself first; where one is missing, itself.

    Args:
        places: (voxels, 3), indices into the grid of codes.
        radius: of the ball, in places of the grid: 0 is the place alone, 1 its six neighbours too.

    Example:
        >>> find_neighbours(np.array([[0, 0, 0], [1, 0, 0], [5, 5, 5]]), 1)[:, [0, 1, 6]].tolist()
        [[0, 0, 1], [1, 0, 1], [2, 2, 2]]
    """
    ball = np.argwhere(np.ones((2 * radius + 1,) * 3, bool)) - radius
    ball = ball[np.sum(ball**2, axis=1) <= radius**2]
    order = np.argsort(np.any(ball != 0, axis=1), kind="stable")
    numbers = np.full(places.max(axis=0) + 1 + 2 * radius, -1, np.int64)
    numbers[tuple((places + radius).T)] = np.arange(len(places))
    near = numbers[tuple(np.moveaxis(places[:, None].astype(np.int64) + ball[order] + radius, -1, 0))]
    return np.where(near < 0, np.arange(len(places))[:, None], near)


def fit(  # noqa: PLR0913 - the choices a caller has, each by name
    latents: np.ndarray,
    where: np.ndarray,
    detector: Detector,
    *,
    step: int,
    template: np.ndarray,
    people: Sequence[str] | None = None,
    radius: int = 0,
    intensities: str = LOCAL,
    shards: pathlib.Path | None = None,
    progress: Progress | None = None,
) -> NormativeModel:
    """Fits a detector to controls and calibrates it by leaving each person out.

    Args:
        latents: (controls, voxels, d).
        where: (voxels, 3), indices into the grid of codes.
        detector: the detector.
        step: voxels from code to code.
        template: label map of the common space.
        people: whose scan each control is; None where everybody has one.
        radius: of the neighbourhood in the controls that a place is compared with, in places of the grid.
        intensities: how the images were normalised.
        shards: folder for finished blocks, from which a stopped fit continues.
        progress: called with the voxels done and all of them.

    Example:
        >>> latents, region = np.random.default_rng(0).normal(size=(5, 8, 3)), np.ones((2, 2, 2), np.uint8)
        >>> fit(latents, find_places(region > 0, step=1), make_detector("centre"), step=1, template=region).grid
        (2, 2, 2)
    """
    neighbours = find_neighbours(where, radius) if radius else None
    fitted = detector.fit(latents, people=people, neighbours=neighbours, shards=shards, progress=progress)
    x, y, z = template.shape
    calibration = Calibration.of(fitted.null, people)
    return NormativeModel(fitted, calibration, where, (x, y, z), step, template, len(latents), intensities)
