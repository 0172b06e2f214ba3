"""Tabulates how much surface lies between eight neighbouring voxel centres; derived from geometry on first use.

The surface of a mask is drawn where marching cubes (Lorensen and Cline 1987) would draw it: in every cube of 2x2x2
voxel centres it passes through the middle of each edge that joins an inside to an outside corner. Summed over a mask
this estimates the area of a smooth surface, which counting boundary voxels overestimates by up to a half.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

Point = tuple[float, ...]  # in voxels of the 2x2x2 cube, corners at 0 and 1
Triangle = tuple[int, int, int]

CORNERS: tuple[Point, ...] = tuple(itertools.product((0, 1), repeat=3))


def encode_corners(mask: np.ndarray) -> np.ndarray:
    """Encodes which of the eight voxels around each grid corner lie inside, as one byte.

    Args:
        mask: boolean (x, y, z).

    Returns:
        uint8 (x - 1, y - 1, z - 1); bit `4 dx + 2 dy + dz` is voxel `(i + dx, j + dy, k + dz)`. Neither 0 nor 255
        has a surface.

    Example:
        >>> mask = np.zeros((2, 2, 2), bool)
        >>> mask[0, 0, 1] = mask[1, 0, 0] = True
        >>> encode_corners(mask).item()
        18
    """
    code: np.ndarray = mask.view(np.uint8)
    code = code[:, :, :-1] | code[:, :, 1:] << 1
    code = code[:, :-1] | code[:, 1:] << 2
    return code[:-1] | code[1:] << 4


def measure_areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Returns the surface area in mm^2 for each code of `encode_corners`.

    Args:
        spacing_mm: voxel size along each axis, in mm, > 0.

    Returns:
        float64 (256,).

    Source:
        Nikolov et al., JMIR 2021, doi 10.2196/26151, weigh surface elements by this area; the table here is our own
        derivation (see `_cut_triangles`) and equals theirs in all 256 entries for any spacing.

    Example:
        >>> measure_areas((1, 1, 1))[0b1111].item()
        1.0
    """
    x, y, z = spacing_mm
    vectors = _compute_area_vectors() * np.array([y * z, x * z, x * y])
    return np.linalg.norm(vectors, axis=-1).sum(axis=-1)


@functools.cache
def _compute_area_vectors() -> np.ndarray:
    """Computes the area vectors of at most four triangles for each code in the unit cube, (256, 4, 3), zero-padded."""
    table = np.zeros((256, 4, 3))
    for code in range(256):
        for row, points in enumerate(_cut_triangles(code)):
            table[code, row] = np.cross(points[1] - points[0], points[2] - points[0]) / 2
    return table


def _cut_triangles(code: int) -> Iterator[np.ndarray]:
    """Yields the triangles of a code, each (3, 3).

    Where a face has two opposite corners inside, the side with fewer corners in the cube is cut into separate pieces
    (so a mask and its complement have the same surface). A loop that is not flat is triangulated so that the area is
    largest: midpoint vertices cut corners off already, and the largest undoes most of that.
    """
    inside = {corner for bit, corner in enumerate(CORNERS) if code >> bit & 1}
    if len(inside) > 4:
        inside = set(CORNERS) - inside
    for loop in _join_loops(inside):
        points = np.array(loop)
        candidates = [[points[list(triangle)] for triangle in way] for way in _triangulate(tuple(range(len(loop))))]
        yield from max(candidates, key=_total_area)


def _total_area(triangles: list[np.ndarray]) -> float:
    # Rounded, so that ways which differ by float noise tie and the first one wins on every machine.
    crosses = [np.cross(points[1] - points[0], points[2] - points[0]) for points in triangles]
    return round(sum(float(np.linalg.norm(cross)) for cross in crosses), 9)


def _cross_faces(inside: set[Point]) -> list[tuple[Point, Point]]:
    """Returns where the surface crosses the faces of the cube: pairs of edge midpoints around inside corners."""
    segments: list[tuple[Point, Point]] = []
    for axis, side in itertools.product(range(3), (0, 1)):
        face = [corner for corner in CORNERS if corner[axis] == side]
        crossed = {
            tuple((p + q) / 2 for p, q in zip(a, b, strict=True)): a if a in inside else b
            for a, b in itertools.combinations(face, 2)
            if sum(p != q for p, q in zip(a, b, strict=True)) == 1 and (a in inside) != (b in inside)
        }
        if len(crossed) == 2:
            first, second = crossed
            segments.append((first, second))
        for corner in set(crossed.values()) if len(crossed) == 4 else ():
            first, second = (middle for middle, owner in crossed.items() if owner == corner)
            segments.append((first, second))
    return sorted(segments)


def _join_loops(inside: set[Point]) -> list[list[Point]]:
    """Joins the face segments end to end into closed loops."""
    loose = _cross_faces(inside)
    loops = []
    while loose:
        loop = list(loose.pop())
        while True:
            following = next((segment for segment in loose if loop[-1] in segment), None)
            if following is None:
                break
            loose.remove(following)
            loop.append(following[0] if following[1] == loop[-1] else following[1])
        loops.append(loop[:-1] if loop[0] == loop[-1] else loop)
    return loops


def _triangulate(ring: tuple[int, ...]) -> Iterator[list[Triangle]]:
    """Yields every way to cut a polygon into triangles between its own vertices."""
    if len(ring) < 3:
        yield []
        return
    for apex in range(1, len(ring) - 1):
        for left in _triangulate(ring[: apex + 1]):
            for right in _triangulate(ring[apex:]):
                yield [*left, (ring[0], ring[apex], ring[-1]), *right]
