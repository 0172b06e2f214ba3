"""Cuts a volume into overlapping patches and blends their results back into one."""

from collections.abc import Sequence

import numpy as np

Size = int | Sequence[int] | np.ndarray
FLOOR = 1e-6  # smallest blending weight: corners of a patch must count where nothing else covers them
TAIL = 200  # one part of so many of a foreground may lie outside its box, on each side
MARGIN = 2  # voxels


def starts(shape: Sequence[int], patch: Size, overlap: float = 0.5) -> np.ndarray:
    """Returns the first voxels of the fewest evenly spaced patches that cover a volume with at least that overlap.

    Patches are spaced evenly, and the last one is not pushed back, so overlap and blending are the same
    everywhere.

    Args:
        shape: voxels along x, y, z; at least the patch.
        patch: patch size in voxels, one number or three.
        overlap: least shared fraction of neighbouring patches along an axis, in [0, 1).

    Returns:
        (num_patches, 3) int64, x slowest; the first is (0, 0, 0), the last ends with the volume.

    Raises:
        ValueError: overlap outside [0, 1), or a volume smaller than the patch.

    Example:
        >>> starts((16, 16, 24), patch=16).tolist()
        [[0, 0, 0], [0, 0, 8]]
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), the fraction that neighbours share; got {overlap}.")
    size = _as_triple(patch, "patch")
    if any(n < p for n, p in zip(shape, size, strict=False)):
        raise ValueError(
            f"A volume of {tuple(shape[:3])} voxels is smaller than the patch {size}. "
            "Pad it first: pad_to(volume, min_shape=patch)."
        )
    axes = []
    for n, p in zip(shape, size, strict=False):
        stride = max(1, int(p * (1 - overlap) + 1e-6))
        num = -(-(n - p) // stride) + 1
        axes.append(np.round(np.linspace(0, n - p, num)).astype(np.int64))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def box_about(mask: np.ndarray, patch: Size) -> tuple[slice, slice, slice]:
    """Returns the box of at least one patch that holds a foreground and has it in its middle.

    Along each axis the foreground reaches from where half a percent of it lies before to where half a percent lies
    behind, so that specks far from it count for nothing, and `MARGIN` voxels more. Near a face of the volume the box
    ends there.

    Args:
        mask: (x, y, z) bool, at least a patch; without any True the box is the whole volume.
        patch: patch size in voxels, one number or three.

    Returns:
        Slices of x, y, z.

    Example:
        >>> mask = np.zeros((40, 16, 16), bool)
        >>> mask[20:30] = True
        >>> box_about(mask, 16)[0]
        slice(17, 33, None)
    """
    box = []
    for axis, size in enumerate(_as_triple(patch, "patch")):
        before = np.cumsum(mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.int64))
        length, total = mask.shape[axis], int(before[-1])
        if not total:
            return (slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2]))
        low = int(np.argmax(TAIL * before > total)) - MARGIN
        high = int(np.argmax(TAIL * before >= (TAIL - 1) * total)) + 1 + MARGIN
        extent = min(max(high - low, size), length)
        start = min(max((low + high - extent) // 2, 0), length - extent)
        box.append(slice(start, start + extent))
    return (box[0], box[1], box[2])


def gaussian_weight(patch: Size, sigma_fraction: float = 1 / 8) -> np.ndarray:
    """Returns the weight of each voxel of a patch when blending: exp(-r^2 / (2 sigma^2)) from the centre.

    Args:
        patch: patch size in voxels, one number or three.
        sigma_fraction: sigma as a fraction of the patch size along each axis.

    Returns:
        (*patch) float32 in [1e-6, 1], symmetric along each axis. The floor keeps corners that nothing else
        covers.

    Raises:
        ValueError: a size below 1 or a fraction that is not positive.

    Example:
        >>> gaussian_weight((3, 3, 3))[1, 1, 1]
        np.float32(1.0)
    """
    if not sigma_fraction > 0:
        raise ValueError(
            f"sigma_fraction must be positive, got {sigma_fraction}. Use 0.125, or a large one for equal weights."
        )
    weight = np.ones(1)
    for p in _as_triple(patch, "patch"):
        x = (np.arange(p) - (p - 1) / 2) / (sigma_fraction * p)
        weight = weight[..., None] * np.exp(-0.5 * x**2)
    return np.maximum(weight[0] / weight.max(), FLOOR).astype(np.float32)


def blend(mean: np.ndarray, total: np.ndarray, values: np.ndarray, *, start: Sequence[int], weight: np.ndarray) -> None:
    """Adds one patch to a weighted mean, in place: mean += (values - mean) * weight / total.

    Uses a running mean, not a sum divided at the end, because it is exact where patches agree: a network that
    returns its input gives the volume back bit for bit, and the mean can be read at any time.

    Args:
        mean: (x, y, z[, channels]) float32, zeros before the first patch.
        total: (x, y, z) float32, the weight so far, zeros before the first patch.
        values: (*patch[, channels]), the result for one patch.
        start: its first voxel in the volume.
        weight: (*patch) float32, positive, as from `gaussian_weight`.
    """
    box = tuple(slice(s, s + p) for s, p in zip(start, weight.shape, strict=True))
    total[box] += weight
    share = weight / total[box]
    mean[box] += (values - mean[box]) * (share[..., None] if mean.ndim == 4 else share)


def pad_to(
    array: np.ndarray, divisor: Size = 1, *, min_shape: Size = 1, value: float = 0.0
) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """Pads a volume on both sides to at least a size and then to a multiple of a divisor.

    Args:
        array: (x, y, z) or (x, y, z, channels).
        divisor: every size becomes a multiple of it, one number or three.
        min_shape: least size in voxels, one number or three, such as the patch.
        value: of the new voxels.

    Returns:
        The padded array (`array` itself when it fits already) and the slices that undo the padding: `padded[slices]`.
        An odd voxel goes to the far end.

    Raises:
        ValueError: a divisor or size below 1.

    Example:
        >>> padded, box = pad_to(np.ones((15, 16, 17)), divisor=4)
        >>> padded.shape, padded[box].shape
        ((16, 16, 20), (15, 16, 17))
    """
    divisors, least = _as_triple(divisor, "divisor"), _as_triple(min_shape, "min_shape")
    shape = [-(-max(n, m) // d) * d for n, m, d in zip(array.shape[:3], least, divisors, strict=True)]
    before = [(m - n) // 2 for m, n in zip(shape, array.shape[:3], strict=True)]
    x, y, z = (slice(b, b + n) for b, n in zip(before, array.shape[:3], strict=True))
    if tuple(shape) == array.shape[:3]:
        return array, (x, y, z)
    padded = np.full((*shape, *array.shape[3:]), value, array.dtype)
    padded[x, y, z] = array
    return padded, (x, y, z)


def _as_triple(size: Size, what: str) -> tuple[int, int, int]:
    values = [int(n) for n in np.atleast_1d(size)]
    x, y, z = values * 3 if len(values) == 1 else values if len(values) == 3 else (0, 0, 0)
    if min(x, y, z) < 1:
        raise ValueError(f"{what} must be one number or three, each at least 1; got {size}.")
    return x, y, z
