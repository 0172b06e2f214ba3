"""Parses NIfTI files from bytes into memory, and writes them whole or not at all."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np

from zoo import files
from zoo.volumes import header
from zoo.volumes.scan_files import describe, list_scans

GZIP_LEVEL = 1  # on scans level 9 takes many times as long to save a few per cent

HEADER_BYTES = 540  # of NIfTI-2, the longest
MGH_VERSION = b"\x00\x00\x00\x01"
MOST_PACKED = 1040  # gzip packs at most 1,032 bytes into one
SCANS = ".nii, .nii.gz, .mgh or .mgz"
MOST_AFTER = 2**20  # bytes tolerated behind the voxels: some programs pad their files
Stored = tuple[tuple[int, ...], np.dtype, int]  # shape, dtype, offset in bytes
BLOCK = (4, 64)  # rows along y and z that are turned at once


def load(path: Path) -> nibabel.Nifti1Image:
    """Parses a NIfTI or FreeSurfer file; `zoo.volumes.image.read` calls this and then checks the content.

    The header is read first, and then no more bytes than it needs. Metres and microns are converted to mm.

    Args:
        path: a NIfTI-1 or -2 file or an MGH file (.mgh, .mgz), plain or gzipped, whatever its name.

    Returns:
        A Nifti1Image or Nifti2Image with its voxels in memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither NIfTI nor MGH, truncated or corrupt, has no real number in a voxel, or its geometry
            is impossible.

    Warns:
        zoo.volumes.header.GeometryWarning: units were converted, or left and right are in doubt.
    """
    with _open(path) as stream:
        start = _read(stream, path, HEADER_BYTES)
        if start[:4] == MGH_VERSION:
            return _load_mgh(start, stream, path)
        kind = _detect_class(start, path)
        header, affine, stored, scaling = _parse_header(kind, start, path)
        raw = _view_voxels(_read_content(start, stream, stored, path), stored, path)
    slope, intercept = scaling
    voxels = _to_native(raw) if slope is None or scaling == (1, 0) else _scale(raw, slope, intercept or 0.0)
    check_affine(affine, str(path))  # before nibabel, which computes with it
    return kind(voxels, affine, header)


def _parse_header(
    kind: type[nibabel.Nifti1Image], start: bytes, path: Path
) -> tuple[Any, np.ndarray | None, Stored, tuple[float | None, float | None]]:
    """Returns the header in mm, its affine, how voxels are stored, slope and intercept."""
    try:
        with np.errstate(all="ignore"):
            unchecked = kind.header_class.from_fileobj(BytesIO(start), check=False)  # nibabel mends sizes of zero
            parsed = kind.header_class.from_fileobj(BytesIO(start))
            stored = (parsed.get_data_shape(), parsed.get_data_dtype(), int(parsed.get_data_offset()))
            scaling = parsed.get_slope_inter()
            doubt = header.doubt_about_sides(parsed)
            factor = header.convert_to_mm(parsed)
            affine = parsed.get_best_affine()
    except Exception as error:  # the parser meets arbitrary bytes here, and raises a dozen types for them
        raise ValueError(f"{path} has a corrupt NIfTI header ({error}). Copy or convert the file again.") from error
    header.check_sizes(unchecked, path)
    header.warn(path, factor, doubt)
    return parsed, affine, stored, scaling


def _load_mgh(start: bytes, stream: IO[bytes], path: Path) -> nibabel.Nifti1Image:
    """Reads a FreeSurfer volume and returns it as NIfTI with the same voxels and affine."""
    try:
        parsed = nibabel.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(start))
        stored = (parsed.get_data_shape(), parsed.get_data_dtype(), int(parsed.get_data_offset()))
        affine = parsed.get_affine()
    except Exception as error:  # arbitrary bytes, as above
        raise ValueError(f"{path} has a corrupt MGH header ({error}). Copy or convert the file again.") from error
    check_affine(affine, str(path))
    voxels = _to_native(_view_voxels(_read_content(start, stream, stored, path), stored, path))
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    return image


def check_affine(affine: np.ndarray | None, name: str) -> None:
    """Checks that an affine spans space.

    Args:
        affine: (4, 4), voxel index to mm.
        name: what the error calls its image.

    Raises:
        ValueError: no affine, one that is not finite, or a singular one.
    """
    if affine is None or not np.isfinite(affine).all():
        raise ValueError(
            f"{name} has an affine that is missing or not finite. Set its sform to the scanner's geometry."
        )
    with np.errstate(all="ignore"):
        spacing = spacing_mm(affine)
        volume = float(np.abs(np.linalg.det(affine[:3, :3])))
        # Relative to a box of that spacing: 1 for a right-angled grid, 0 when two axes run parallel.
        share = volume / spacing.prod()
    if spacing.min() < 1e-6 or not share > 1e-4:
        size = " x ".join(f"{s:.3g}" for s in spacing)
        raise ValueError(
            f"{name} has a singular affine: its axes of {size} mm span a volume of {volume:.3g} mm3 a voxel. "
            "Voxel size and directions must span space; set its sform to the scanner's geometry."
        )


def spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Returns the voxel size in mm along each array axis: (3,) float64, the lengths of the affine's columns."""
    return np.sqrt((np.asarray(affine, np.float64)[:3, :3] ** 2).sum(0))


def save(image: nibabel.Nifti1Image, path: Path) -> None:
    """Writes an image whole or not at all; the same image gives the same bytes."""
    with files.replacing(path) as temporary, open(temporary, "xb") as raw:
        _stream(image, raw, path.suffix.lower() == ".gz")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for reading, through gzip when it is compressed."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Check the path; a {SCANS} file is expected.")
    if not path.is_file():
        inside = describe(list_scans(path).left_out, path) if path.is_dir() else ""
        raise ValueError(f"{path} is not a file. Name a {SCANS} file{f'; {inside}' if inside else ''}.")
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        yield gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[misc]


def _read(stream: IO[bytes], path: Path, count: int) -> bytes:
    try:
        return stream.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is truncated or corrupt: its gzip data do not unpack ({error}). Copy or download it again."
        ) from error


def _read_content(start: bytes, stream: IO[bytes], stored: Stored, path: Path) -> bytes:
    """Reads the bytes that the header announces, and on to the end for gzip's checksum unless much more follows."""
    shape, dtype, offset = stored
    needed = max(offset + math.prod(int(n) for n in shape) * dtype.itemsize, len(start))
    most = MOST_PACKED * path.stat().st_size  # a header may ask for terabytes that cannot be there
    content = start + _read(stream, path, min(needed, most) - len(start))
    if len(content) == needed and len(_read(stream, path, MOST_AFTER)) == MOST_AFTER:
        raise ValueError(
            f"{path} holds over {MOST_AFTER} bytes more than its header of {shape} voxels asks for. "
            "Copy or convert it again."
        )
    return content


def _detect_class(content: bytes, path: Path) -> type[nibabel.Nifti1Image]:
    for kind, size, magic_at in ((nibabel.Nifti1Image, 348, 344), (nibabel.Nifti2Image, 540, 4)):
        magic = content[magic_at : magic_at + 2]
        if size in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")):
            if magic == b"n+":
                return kind
            if magic == b"ni":
                raise ValueError(
                    f"{path} is the header of a NIfTI pair (.hdr and .img). Make one file of both: "
                    f"nib-convert {path} {path.with_suffix('.nii.gz')}."
                )
            if kind is nibabel.Nifti1Image:
                raise ValueError(
                    f"{path} is an Analyze 7.5 header, which does not say which side is left. Convert the scan from "
                    f"its source; or, if left and right were never in doubt, nib-convert {path} "
                    f"{path.with_suffix('.nii.gz')}, and compare the sides with what is known."
                )
    if content[128:132] == b"DICM":
        raise ValueError(f"{path} is a DICOM file. Convert its series with dcm2niix.")
    if path.name.lower().endswith((".img", ".img.gz")):
        name = path.with_name(path.name[: path.name.lower().rindex(".img")])
        raise ValueError(
            f"{path} holds the voxels of an Analyze or NIfTI pair without their header. Make one file of both: "
            f"nib-convert {name}.hdr {name}.nii.gz."
        )
    what = f"it begins with {content[:4]!r}" if content else "it is empty"
    raise ValueError(f"{path} is not a NIfTI file: {what}. Convert it to .nii or .nii.gz.")


def _view_voxels(content: bytes, stored: tuple[tuple[int, ...], np.dtype, int], path: Path) -> np.ndarray:
    """Returns a view of the stored numbers behind a header, in the axis order of the file."""
    shape, dtype, offset = stored
    if dtype.kind not in "iuf":
        raise ValueError(
            f"{path} stores voxels as {dtype}, and one real number a voxel is expected. "
            "Convert it, for example to its magnitude or one colour."
        )
    count = int(np.prod([int(n) for n in shape], dtype=object))
    if count < 1 or min(shape, default=0) < 1:
        raise ValueError(f"{path} has no voxels: its header gives shape {shape}. Copy or convert it again.")
    if offset < 0 or offset + count * dtype.itemsize > len(content):
        raise ValueError(
            f"{path} is truncated or corrupt: {shape} voxels of {dtype.name} need "
            f"{count * dtype.itemsize} bytes from byte {offset}, and the file ends at byte "
            f"{len(content)}. Copy or download it again."
        )
    return np.frombuffer(content, dtype, count, offset).reshape(shape, order="F")


def _to_native(raw: np.ndarray) -> np.ndarray:
    """Turns voxels from Fortran to C order and native bytes; blocks that fit the cache halve the time."""
    dtype = raw.dtype.newbyteorder("=")
    if raw.ndim != 3 or raw.flags.c_contiguous:
        return np.ascontiguousarray(raw, dtype)
    turned = np.empty(raw.shape, dtype)
    for y in range(0, raw.shape[1], BLOCK[0]):
        for z in range(0, raw.shape[2], BLOCK[1]):
            part = (slice(None), slice(y, y + BLOCK[0]), slice(z, z + BLOCK[1]))
            turned[part] = raw[part]
    return turned


def _scale(raw: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Applies slope and intercept in float64, slice by slice: exact to float32, without a second volume in memory."""
    scaled = np.empty(raw.shape, np.float32)
    with np.errstate(all="ignore"):
        for k in range(raw.shape[-1]):
            scaled[..., k] = raw[..., k].astype(np.float64) * slope + intercept
    return scaled


def _stream(image: nibabel.Nifti1Image, raw: BufferedWriter, compressed: bool) -> None:
    """Writes an image to an open file; the gzip header has no name or time, so equal images give equal bytes."""
    if not compressed:
        image.to_stream(raw)
        return
    with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed:
        image.to_stream(packed)
