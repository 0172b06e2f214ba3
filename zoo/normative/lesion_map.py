"""Maps outliers in T1 and FLAIR against controls: normalisation, codes, z, clusters and pictures."""

import dataclasses
import importlib.util
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
from scipy import stats

from zoo.datasets.cases import Case
from zoo.evaluation import clusters as detection
from zoo.hub import result_record, trained_models
from zoo.hub.card import Card
from zoo.hub.download import sha256
from zoo.hub.result_record import Origin
from zoo.inference.inputs import Images, read_channels
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.normative import control_codes
from zoo.normative import model as normative
from zoo.normative.detectors import Detector, Progress
from zoo.normative.encoding import make_encoder
from zoo.normative.intensities import LOCAL, normalise
from zoo.normative.model import NormativeModel
from zoo.reporting.projection import write_projection
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.common_space import Normalisation
from zoo.synth.anatomy.sources import from_freesurfer
from zoo.volumes import image as volumes
from zoo.volumes.image import Image

MODEL, PARCELLATION = "siamese.epilepsy_lesions", "unet3d.brain_structures"
LEAST_CONTROLS = 10
SAME_MM = 0.01
MOST_OUT = 0.1  # of the brain; where more lies out, the controls are from another scanner or population
MOST_OF_TEMPLATE = 1.3  # a brain that is larger than this many templates still has its skull on
GROUPS = ("group", "diagnosis", "participant_type")
HEALTHY = ("control", "controls", "healthy", "hc", "volunteer")
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class LesionMap:
    """Holds the outliers of one person.

    Attributes:
        z: normal deviates on the grid of the first channel, 0 where the model has no place.
        clusters: the least likely first, in that image's world coordinates.
        scan: the first channel.
        out: share of the brain above the threshold; about p in a healthy brain.
    """

    z: Image
    clusters: tuple[detection.Cluster, ...]
    scan: Image
    out: float = 0.0

    @property
    def message(self) -> str:
        """Returns the number of clusters, and a warning where most of the brain is unlike the controls."""
        count = f"{len(self.clusters)} cluster{'' if len(self.clusters) == 1 else 's'}"
        if self.out < MOST_OUT:
            return count
        return (
            f"{count}, but {self.out:.0%} of the brain lies out: the controls are of another scanner or population. "
            "Fit your own (zoo fit-normative)"
        )

    def write(self, folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
        """Writes NAME_z.nii.gz, NAME_clusters.nii.gz, NAME_clusters.csv and, with matplotlib, NAME_clusters.png."""
        home = pathlib.Path(folder)
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        values = volumes.array(self.z)
        ranks = detection.map_ranks(self.clusters, values.shape)
        written = [
            volumes.write(home / f"{name}_z.nii.gz", values.astype(np.float32), self.scan),
            volumes.write(home / f"{name}_clusters.nii.gz", ranks, self.scan),
            detection.write_clusters(self.clusters, home / f"{name}_clusters.csv"),
        ]
        if importlib.util.find_spec("matplotlib") is None:
            return written
        overlay = volumes.on_grid_of(self.scan, np.where(ranks > 0, values, 0).astype(np.float32))
        picture = home / f"{name}_clusters.png"
        threshold = float(stats.norm.isf(detection.P))
        return [
            *written,
            write_projection(picture, self.scan, overlay, threshold=threshold, title=f"{name}: {self.message}"),
        ]


class Finder:
    """Finds lesions with one network and one normative model.

    Args:
        model: name or folder of a trained model that gives codes.
        fitted: file of a normative model; None for the one shipped with the network.
        precision: "float32", "bfloat16" or "auto".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such model, or one that gives no codes.

    Example:
        >>> lesion_map = Finder()({"T1w": "t1.nii.gz", "FLAIR": "flair.nii.gz"})  # doctest: +SKIP
        >>> lesion_map.write("out", "sub-01")  # doctest: +SKIP
    """

    def __init__(
        self, model: str | os.PathLike = MODEL, *, fitted: str | os.PathLike | None = None, precision: str = "auto"
    ) -> None:
        folder = trained_models.find(model)
        self.card = trained_models.card(folder)
        self.normative = NormativeModel.read(fitted if fitted is not None else folder / normative.FILE)
        self.encode = make_encoder(trained_models.load(folder), step=self.normative.step, precision=precision)

    def __call__(
        self, images: Images, *, p: float = detection.P, top: int | None = None, tell: Tell = lambda _: None
    ) -> LesionMap:
        """Maps where one person differs from the controls.

        Args:
            images: T1 and FLAIR on one grid; on the grid of the common space they are taken as normalised.
            p: share of healthy voxels that pass the threshold.
            top: number of clusters to keep; None for all.
            tell: called with the name of each stage.

        Raises:
            ValueError: images that cannot be used, or on different grids.
        """
        scans = _read_scans(images, self.card)
        person, normalisation = to_common_space(
            scans, self.normative.template, intensities=self.normative.intensities, tell=tell
        )
        tell("codes and outliers")
        coarse = self.normative.z_map(self.encode(person))
        z = normalisation.back(_interpolate(coarse, self.normative), _ras_shape(scans[0]))
        z = np.asarray(volumes.from_ras(z, scans[0]), np.float32)
        clusters = detection.find_clusters(z, scans[0].affine, p=p, top=top)
        place_z = coarse[tuple(self.normative.places.T)]
        return LesionMap(
            volumes.on_grid_of(scans[0], z), clusters, scans[0], float(np.mean(place_z > stats.norm.isf(p)))
        )


def describe_settings(model: str | os.PathLike, fitted: str | os.PathLike | None) -> dict[str, Any]:
    """Returns what decides a map beside the network and the scans, for its record: the normative model, the regions.

    Args:
        model: name or folder of a trained model.
        fitted: file of a normative model; None for the one shipped with it.
    """
    path = pathlib.Path(fitted) if fitted is not None else trained_models.find(model) / normative.FILE
    parcellation = result_record.describe_model(trained_models.card(PARCELLATION))
    return {"NormativeSha256": sha256(path), "Parcellation": parcellation, "P": detection.P}


def _read_scans(images: Images, card: Card) -> list[Image]:
    scans = read_channels(images, card)
    volumes.check_same_grid(scans, [channel.name for channel in card.input.channels])
    return scans


def _ras_shape(scan: Image) -> tuple[int, ...]:
    return volumes.to_ras(volumes.array(scan), scan.affine)[0].shape


def _interpolate(coarse: np.ndarray, model: NormativeModel) -> np.ndarray:
    """Interpolates a map on the grid of codes linearly to every voxel of the common space."""
    from scipy import ndimage

    places = np.indices(model.shape, np.float32) / model.step
    return ndimage.map_coordinates(coarse, places, np.float32, order=1, mode="nearest")


def to_common_space(
    scans: Sequence[Image], template: np.ndarray, *, intensities: str = LOCAL, tell: Tell = lambda _: None
) -> tuple[np.ndarray, Normalisation]:
    """Maps one person's images to the common space, with the brain cut out and intensities normalised.

    Args:
        scans: images on one grid, the T1 first.
        template: label map of the common space.
        intensities: how, one of `zoo.normative.intensities.NORMALISATIONS`.
        tell: called with the name of each stage.

    Returns:
        (*SHAPE, channels) float32, and the map from the common space to the scan turned to RAS+.

    Raises:
        ValueError: images on the grid of the common space still have their skull.
    """
    arrays, affines = zip(*(volumes.to_ras(volumes.array(scan), scan.affine) for scan in scans), strict=True)
    if arrays[0].shape == common_space.SHAPE and np.allclose(affines[0], common_space.AFFINE, atol=SAME_MM):
        normalisation, inside = common_space.by_affine(affines[0]), np.any([array != 0 for array in arrays], axis=0)
        if inside.sum() > MOST_OF_TEMPLATE * np.sum(np.asarray(template) > 0):
            raise ValueError(
                f"Images on the template's grid have their brain cut out, but {inside.sum() / 1000:.0f} ml of these "
                "are not 0. Cut it out (zoo predict unet3d.brain_mask), or give the images on their own grid."
            )
        parcels = inside if intensities == LOCAL else np.where(inside, _find_structures(scans[0], tell), 0)
    else:
        labels = _find_structures(scans[0], tell)
        tell("normalisation")
        normalisation = common_space.normalise(labels, template)
        parcels = normalisation.carry(labels, order=0)
        arrays = tuple(normalisation.carry(np.asarray(array, np.float32)) for array in arrays)
    return normalise(np.stack(arrays, axis=-1), parcels, intensities), normalisation


def _find_structures(scan: Image, tell: Tell) -> np.ndarray:
    """Returns the label map of a brain by the parcellation, (x, y, z) uint8 of the scheme, RAS+."""
    tell("brain structures")
    parcels = Predictor(PARCELLATION, settings=Settings(precision="auto"))(scan)
    codes, _ = volumes.to_ras(np.asanyarray(parcels.dataobj).astype(np.int32), scan.affine)
    return from_freesurfer(codes).astype(np.uint8)


def check_controls(cases: Sequence[Case], channels: Sequence[str]) -> None:
    """Checks that cases can serve as controls.

    Raises:
        ValueError: fewer than ten people, different spacings, channels on different grids, or a patient among them.
    """
    people = len({case.subject for case in cases})
    if people < LEAST_CONTROLS:
        each = f" with {len(cases)} scans" if people < len(cases) else ""
        raise ValueError(
            f"A normative model needs {LEAST_CONTROLS} controls or more, got {people}{each}: outliers of fewer mean "
            "nothing. Add controls, or use the model that is shipped."
        )
    first: tuple[str, np.ndarray] | None = None
    for case in cases:
        _check_healthy(case)
        scans = [nibabel.nifti1.load(case.channels[name]) for name in channels]
        volumes.check_same_grid(scans, [f"{name} of {case.id}" for name in channels])
        spacing = volumes.spacing_mm(scans[0].affine)
        if first is None:
            first = case.id, spacing
        elif not np.allclose(spacing, first[1], atol=0.05):
            raise ValueError(
                f"Controls of one model share a spacing: {first[0]} has {np.round(first[1], 2).tolist()} mm, {case.id} "
                f"{np.round(spacing, 2).tolist()} mm. Fit one model a protocol, or resample them alike."
            )


def _check_healthy(case: Case) -> None:
    """Raises ValueError where an outlined lesion, or the case's table, shows a patient."""
    group = next((str(case.tabular[name]) for name in GROUPS if name in case.tabular), HEALTHY[0])
    outlined = case.labels is not None and bool(np.any(np.asanyarray(nibabel.nifti1.load(case.labels).dataobj) != 0))
    if outlined or group.lower() not in HEALTHY:
        why = f"a lesion is outlined in {case.labels}" if outlined else f"its table says {group!r}"
        raise ValueError(
            f"{case.id} is a patient ({why}); among the controls it would make its own lesion normal. Take it out."
        )


def fit_normative(  # noqa: PLR0913 - the choices a caller has, each by name
    cases: Sequence[Case],
    out: str | os.PathLike,
    *,
    model: str | os.PathLike = MODEL,
    detector: str = "moments",
    settings: Mapping[str, float] | None = None,
    step: int = 3,
    precision: str = "auto",
    overwrite: bool = False,
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
) -> NormativeModel:
    """Fits a site's own normative model.

    Each person is scored by the controls of other people, however many scans a person has. The codes of each control
    and each finished block of voxels stay beside the result until it is written, so that the same call continues where
    it was stopped. A JSON file beside the result records its weights, settings and scans: the same call again returns
    it, and one with other scans fits anew.

    Args:
        cases: controls with the channels of the model.
        out: the npz file to write.
        model: name or folder of a trained model; its normative model gives the template.
        detector: "moments", "mahalanobis", "nearest", "centre" or "one_class".
        settings: settings of the detector, as {"nu": 0.03}.
        step: voxels from code to code; 3 is quickest, 1 is every voxel.
        precision: precision of the network.
        overwrite: whether a file that is there is replaced, however it was made.
        tell: called with the name of each stage.
        progress: called with the voxels done and all of them.

    Raises:
        ValueError: as `check_controls`; or no such detector; or `out` is a result of other weights or settings, or not
            one of this function.

    Example:
        >>> cases = find_cases("controls", channels=("T1w", "FLAIR"))  # doctest: +SKIP
        >>> fit_normative(cases, "normative.npz").controls  # doctest: +SKIP
        24
    """
    fitted_detector, out = normative.make_detector(detector, **dict(settings or {})), pathlib.Path(out)
    folder = trained_models.find(model)
    card = trained_models.card(folder)
    channels = [channel.name for channel in card.input.channels]
    check_controls(cases, channels)
    encoding = {**describe_settings(folder, None), "Step": step, "Precision": precision}
    inputs = {control_codes.name_input(case, name): case.channels[name] for case in cases for name in channels}
    subjects = [case.subject for case in cases]
    chosen = _describe_detector(fitted_detector, subjects)
    origin = Origin(result_record.describe_model(card), encoding | chosen, inputs)
    if not overwrite and out.exists() and _is_kept(out, origin):
        tell(f"{out} is there already")
        return NormativeModel.read(out)
    result_record.check_replaceable(out)
    record, shipped = origin.as_record(), NormativeModel.read(folder / normative.FILE)
    template, intensities = shipped.template, shipped.intensities
    keys = control_codes.list_keys(cases, channels, record, {**record["Model"], **encoding})
    encode = make_encoder(trained_models.load(folder), step=step, precision=precision)
    where = normative.find_places(_find_tissue(template), step=step)

    def encode_case(case: Case) -> np.ndarray:
        tell(f"control {cases.index(case) + 1} of {len(cases)}: {case.id}")
        person, _ = to_common_space(_read_scans(case.channels, card), template, intensities=intensities, tell=tell)
        return normative.gather(encode(person), where)

    work = out.with_suffix(".work")
    latents = np.stack(list(control_codes.encode_controls(cases, keys, work, encode_case)))
    shards = work / f"{detector}-{control_codes.digest(chosen, keys)}"
    fitted = normative.fit(
        latents,
        where,
        fitted_detector,
        step=step,
        template=template,
        people=subjects,
        intensities=intensities,
        shards=shards,
        progress=progress,
    )
    with result_record.writing(out, record):
        fitted.write(out)
    result_record.write(out, record)
    shutil.rmtree(work, ignore_errors=True)
    return fitted


def _describe_detector(detector: Detector, subjects: Sequence[str]) -> dict[str, Any]:
    """Returns a detector's settings for the record; the number of people where somebody has several scans."""
    settings = {"Detector": detector.name, **dataclasses.asdict(detector)}
    people = len(set(subjects))
    return settings if people == len(subjects) else settings | {"People": people}


def _is_kept(out: pathlib.Path, origin: Origin) -> bool:
    """Returns whether a normative model is kept; warns where its scans changed."""
    kept, warned = result_record.is_kept(out, origin)
    for warning in warned:
        warnings.warn(warning, stacklevel=3)
    return kept


def _find_tissue(template: np.ndarray) -> np.ndarray:
    from zoo.synth.epilepsy import brain

    return np.asarray(brain(template))
