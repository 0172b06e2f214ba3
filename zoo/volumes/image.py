"""Reads, checks, writes and reorients NIfTI images.

The functions of `zoo.volumes.resampling` are also available here. Affines are in mm, as nibabel uses them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations

from zoo.volumes import nifti
from zoo.volumes.nifti import spacing_mm
from zoo.volumes.resampling import (
    resample,
    resample_affine,
    resample_labels,
    resample_like,
    resampled_shape,
)
from zoo.volumes.scan_files import is_nifti

__all__ = [
    "array",
    "check",
    "check_same_grid",
    "from_ras",
    "on_grid_of",
    "read",
    "resample",
    "resample_affine",
    "resample_labels",
    "resample_like",
    "resampled_shape",
    "spacing_mm",
    "to_ras",
    "write",
]

Image = nibabel.Nifti1Image  # Nifti2Image is a subclass of it


def read(path: str | os.PathLike, *, ndim: int = 3) -> Image:
    """Reads a NIfTI or MGH file into memory and checks that it is whole and usable.

    Detects the format from the content, not the name: NIfTI-1 or -2 or FreeSurfer's MGH, plain or gzipped (the
    checksum is verified), either byte order. The sform gives the affine when it has a code, else the qform, else the
    voxel sizes alone.

    Args:
        path: a .nii, .nii.gz, .mgh or .mgz file.
        ndim: 3 for one volume (a 4D file that holds one volume is squeezed), 4 for (x, y, z, volumes).

    Returns:
        A Nifti1Image or Nifti2Image, its voxels in memory as C-contiguous (x, y, z[, volumes]): the stored
        dtype in native byte order, or float32 where the file has a slope and intercept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `check`, or the file is not NIfTI, truncated or corrupt.
    """
    return check(nifti.load(Path(path)), str(path), ndim=ndim)


def check(image: Image, name: str = "The image", *, ndim: int = 3) -> Image:
    """Checks that a network can take an image, and squeezes a 4D image with one volume.

    Args:
        image: a Nifti1Image or Nifti2Image.
        name: what the errors call it.
        ndim: 3 for one volume, 4 for (x, y, z, volumes).

    Returns:
        The image with `ndim` dimensions, `image` itself when nothing had to change.

    Raises:
        ValueError: not NIfTI, wrong number of dimensions (the volumes found are named), singular affine,
            voxels that are NaN or infinite (counted), or nothing but zeros.
    """
    if not isinstance(image, Image):
        raise ValueError(
            f"{name} is {type(image).__name__}, not a NIfTI image. Convert it: "
            "nibabel.Nifti1Image(image.get_fdata(), image.affine)."
        )
    shape = _check_shape(image.shape, name, ndim)
    nifti.check_affine(image.affine, name)
    _check_values(image, name)
    if shape == image.shape:
        return image
    return type(image)(np.asanyarray(image.dataobj).reshape(shape), image.affine, image.header)


def array(image: Image) -> np.ndarray:
    """Returns the voxels of an image, slope and intercept applied.

    Args:
        image: any nibabel image.

    Returns:
        (x, y, z[, volumes]) float32, C-contiguous; may share memory with the image.
    """
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and `check` counts that
        return np.ascontiguousarray(np.asanyarray(image.dataobj), dtype=np.float32)


def write(
    path: str | os.PathLike, array: np.ndarray, like: Image, *, dtype: np.dtype | type | str | None = None
) -> Path:
    """Writes an array as NIfTI on the grid of another image, whole or not at all.

    The file is written under a temporary name in the same folder and then renamed. It keeps the affine, qform,
    sform, their codes, zooms, units and byte order of `like`, and drops what describes the voxels of `like`
    alone: display range, intent and header extensions. The same input gives the same bytes.

    Args:
        path: ends in .nii or .nii.gz.
        array: (x, y, z) or (x, y, z, channels) on the grid of `like`.
        like: the image whose grid it is; its class decides between NIfTI-1 and -2.
        dtype: stored without slope and intercept; of the array when None (bool as uint8, float16 as float32,
            64-bit integers as int32).

    Returns:
        The path.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: another suffix, another grid, or values that `dtype` cannot hold.
    """
    path = Path(path)
    if not is_nifti(path):
        raise ValueError(f"An image is written to .nii or .nii.gz, got {str(path)!r}. Change the suffix.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist. Make it, or write elsewhere.")
    nifti.save(on_grid_of(like, array, dtype=dtype, name=path.name), path)
    return path


def write_centred(path: str | os.PathLike, array: np.ndarray, spacing_mm: Sequence[float]) -> None:
    """Writes an array as an image whose middle is the origin of the world.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        array: (x, y, z), along RAS axes.
        spacing_mm: voxel size along each axis, in mm.

    Example:
        >>> write_centred("simulated.nii.gz", np.zeros((16, 24, 32), np.int16), (1, 1, 3))  # doctest: +SKIP
    """
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(size - 1) / 2 * mm for size, mm in zip(array.shape, spacing_mm, strict=True)]
    write(path, array, nibabel.nifti1.Nifti1Image(array, affine))


def on_grid_of(
    like: Image, array: np.ndarray, *, dtype: np.dtype | type | str | None = None, name: str = "The image"
) -> Image:
    """Returns an array as an image on the grid of another image, with the header that `write` stores.

    Args:
        like: the image whose grid it is.
        array: (x, y, z) or (x, y, z, channels) on that grid.
        dtype: as `write` takes it.
        name: what the errors call it.

    Returns:
        An image of the class of `like`.

    Raises:
        ValueError: another grid, or values that `dtype` cannot hold.
    """
    array = np.asarray(array)
    if array.shape[:3] != like.shape[:3] or array.ndim not in (3, 4):
        raise ValueError(
            f"{name} would hold shape {array.shape} on a grid of {like.shape[:3]}. "
            "Bring it to that grid first (from_ras, resample_like)."
        )
    data = _to_dtype(array, dtype, name)
    return type(like)(data, like.affine, _make_header(like, data))


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns the axes of a volume to the nearest of right, anterior, superior; nothing is interpolated.

    Args:
        array: (x, y, z[, channels]) in any of the 48 axis orders and directions, oblique or not.
        affine: (4, 4), voxel index to mm.

    Returns:
        The array, C-contiguous (itself when it was so already), and its affine, float64; a voxel keeps its
        place in mm.
    """
    turn = orientations.io_orientation(affine)
    turned = np.ascontiguousarray(orientations.apply_orientation(array, turn))
    return turned, np.asarray(affine, np.float64) @ orientations.inv_ornt_aff(turn, array.shape[:3])


def from_ras(array: np.ndarray, like: Image | np.ndarray) -> np.ndarray:
    """Undoes `to_ras`: turns the axes of a volume from RAS+ to those of an image.

    Args:
        array: (x, y, z[, channels]), axes towards right, anterior, superior.
        like: the image, or its (4, 4) affine, as it was before `to_ras`.

    Returns:
        The same values in the axis order and directions of `like`, C-contiguous.
    """
    affine = like.affine if isinstance(like, nibabel.spatialimages.SpatialImage) else like
    ras = np.stack([np.arange(3), np.ones(3)], 1)
    back = orientations.ornt_transform(ras, orientations.io_orientation(affine))
    return np.ascontiguousarray(orientations.apply_orientation(array, back))


def check_same_grid(images: Sequence[Image], names: Sequence[str], *, tolerance_mm: float = 0.1) -> None:
    """Checks that images lie on the grid of the first, with a tolerance for rounding in headers.

    Args:
        images: at least one; only `shape` and `affine` are used.
        names: what the error calls them, one each ("t1", "flair").
        tolerance_mm: largest distance between the same voxel of two images.

    Raises:
        ValueError: shapes differ, or voxels lie further apart, with the measured difference.
    """
    first, first_name = images[0], names[0]
    for image, name in zip(images[1:], names[1:], strict=True):
        advice = f"Resample {name!r} onto {first_name!r} first (zoo.volumes.image.resample_like)."
        if image.shape[:3] != first.shape[:3]:
            raise ValueError(
                f"{name!r} and {first_name!r} lie on different grids: {image.shape[:3]} voxels against "
                f"{first.shape[:3]}. {advice}"
            )
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in first.shape[:3]], [1]), -1).reshape(-1, 4)
        distance_mm = np.linalg.norm(corners @ (image.affine - first.affine)[:3].T, axis=1).max()
        if not distance_mm <= tolerance_mm:
            raise ValueError(
                f"{name!r} and {first_name!r} lie on different grids: the same voxel is up to {distance_mm:.2f} mm "
                f"apart, at most {tolerance_mm:g} mm is accepted. {advice}"
            )


def _check_shape(shape: tuple[int, ...], name: str, ndim: int) -> tuple[int, ...]:
    if ndim not in (3, 4):
        raise ValueError(f"ndim must be 3 (one volume) or 4 (volumes last), got {ndim!r}.")
    while len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3:
        raise ValueError(f"{name} has shape {shape}, and a 3D volume (x, y, z) is expected. Stack its slices first.")
    if len(shape) == 3 and ndim == 4:
        return (*shape, 1)
    if len(shape) > ndim:
        if len(shape) > 4:
            content = f"axes of {shape[3:]} beyond x, y, z"
        else:
            content = f"{shape[3]} volumes (" + ", ".join(f"[..., {i}]" for i in _list_ends(shape[3])) + ")"
        expected = "one volume" if ndim == 3 else "one axis of volumes"
        raise ValueError(
            f"{name} is {len(shape)}D with shape {shape}: it holds {content} where {expected} is "
            "expected. Save the one you mean: nibabel.save(nibabel.load(path).slicer[..., 0], new_path)."
        )
    return shape


def _list_ends(num: int) -> list[int | str]:
    """Lists every index of a short axis, the ends of a long one."""
    return list(range(num)) if num <= 4 else [0, 1, "...", num - 1]


def _check_values(image: Image, name: str) -> None:
    values = array(image)
    if not np.isfinite(values).all():
        num_nan, num_inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        raise ValueError(
            f"{name} has {num_nan + num_inf} voxels of {values.size} that are not finite ({num_nan} NaN, "
            f"{num_inf} infinite). Replace them, for example with numpy.nan_to_num(data, posinf=0, neginf=0)."
        )
    if not values.any():
        raise ValueError(f"{name} holds nothing but zeros. Check the file it was made from.")


def _to_dtype(values: np.ndarray, dtype: np.dtype | type | str | None, name: str) -> np.ndarray:
    if dtype is None:
        narrow = {"bool": "uint8", "float16": "float32", "int64": "int32", "uint64": "int32"}
        dtype = narrow.get(values.dtype.name, values.dtype)
    dtype = np.dtype(dtype)
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        data = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(data, values):
        raise ValueError(
            f"{name} cannot be stored as {dtype}: values from {values.min()} to {values.max()} would "
            "change. Pass a dtype that holds them, such as dtype='float32', or round them first."
        )
    return data


def _make_header(like: Image, data: np.ndarray) -> nibabel.Nifti1Header:
    header = like.header.copy()
    header.extensions.clear()
    header.set_data_dtype(data.dtype)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    if data.ndim == 4 and len(like.shape) < 4:
        header["pixdim"][4] = 1
    return header
