"""Places electrodes on the template's scalp, channel by channel: by a name of the 10-05 system, else by position.

Positions may be in m, cm or mm and centred anywhere: a similarity fit to the electrodes that have both a name and a
position, or else a shift and a scale that bring all to the scalp, carries them to the template.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from zoo.eeg import head_surfaces
from zoo.source_imaging.units import repair

RMS_MM, FAR_MM = 15.0, 30.0
_PAIRS = 6
_RADIUS_MM = (60.0, 130.0)
_UNITS = (("m", 1.0), ("cm", 0.01), ("mm", 0.001))
_UNIT_SPHERE_MM, _UNIT_SPHERE = 90.0, (0.8, 1.3)
_OLD = {"t3": "t7", "t4": "t8", "t5": "p7", "t6": "p8"}
_PRIOR_MM, _PRIOR_SCALE = 20.0, 0.1
_ASYMMETRY = 1.5


@dataclasses.dataclass(frozen=True)
class Placement:
    """Electrodes on the template.

    Attributes:
        places_mm: name -> (3,), mm in the template's MRI coordinates, in the order of the recording.
        by_name: whether every electrode was placed by its name.
        rms_mm: root mean square distance to the scalp of those placed by position; None where none was.
        repairs: a sentence for each change.
    """

    places_mm: dict[str, np.ndarray]
    by_name: bool
    rms_mm: float | None
    repairs: tuple[str, ...]


def place_electrodes(names: tuple[str, ...], positions_mm: Mapping[str, np.ndarray]) -> Placement:
    """Places each electrode by its name where it has one of the 10-05 system, by its position otherwise.

    Args:
        names: of the channels; those with neither are left out.
        positions_mm: name -> (3,), mm if the recording declared its unit truly.

    Raises:
        ValueError: positions that are no head in any unit, or that fit the scalp no better than 15 mm.

    Example:
        >>> place_electrodes(("Fp1", "Cz"), {}).by_name
        True
    """
    template = _template_electrodes()
    named = {name: template[_key(name)] for name in names if _key(name) in template}
    loose = [name for name in names if name not in named and name in positions_mm]
    if not loose:
        return Placement(named, True, None, _compare(named, positions_mm))
    points, repairs = _scale_to_mm({name: positions_mm[name] for name in names if name in positions_mm})
    fitted, wrong, how, anchored = _fit(points, named)
    distance = dict(zip(fitted, scalp_distance_mm(np.stack(list(fitted.values()))), strict=True))
    limit = RMS_MM if anchored else FAR_MM
    far = [name for name in loose if abs(distance[name]) > limit]
    kept = [name for name in loose if name not in far] + wrong
    rms = float(np.sqrt(np.mean([distance[name] ** 2 for name in kept]))) if kept else 0.0
    if not anchored and (rms > RMS_MM or len(far) > len(loose) / 5):
        raise ValueError(
            f"The electrode positions fit no scalp: after a shift and a scale, {len(far)} of {len(loose)} lie more "
            f"than {FAR_MM:g} mm from it, the others {rms:.0f} mm (RMS; {RMS_MM:g} at most). They are in another "
            "frame. Set a montage: recording.set_montage('biosemi64')."
        )
    places = {name: fitted[name] if name in kept else named[name] for name in names if name in kept or name in named}
    if far:
        how.append(f"{len(far)} channels left out, more than {limit:g} mm from the scalp: {_shorten(far)}.")
    stated = f"{len(kept)} channels placed by position, {rms:.1f} mm (RMS) from the scalp: {_shorten(kept)}."
    return Placement(places, False, rms, (*(repair(text) for text in [*repairs, *how]), *([stated] if kept else [])))


def scalp_distance_mm(points_mm: np.ndarray) -> np.ndarray:
    """Measures how far points (n, 3), mm in the template's MRI coordinates, lie outside its scalp, (n,) mm.

    Example:
        >>> bool(np.abs(scalp_distance_mm(head_surfaces.head().electrodes_mm)).max() < 0.1)
        True
    """
    head = head_surfaces.head()
    centre = np.asarray(head.warp.centre_mm)
    offset = np.asarray(points_mm, float) - centre
    return np.linalg.norm(offset, axis=1) - head_surfaces.radius_towards(head.surfaces_mm[2] - centre, offset)


def fit_sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits a sphere to points (n, 3) by least squares: centre (3,) and radius, in their unit.

    Example:
        >>> centre, radius = fit_sphere(np.vstack([np.eye(3), -np.eye(3)]) * 2 + 1)
        >>> centre.round(6).tolist(), round(radius, 6)
        ([1.0, 1.0, 1.0], 2.0)
    """
    solution = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], np.square(points).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 0.0)))


def fit_similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fits rotation, scale and shift from points to targets, both (n, 3); Umeyama 1991, doi 10.1109/34.88573.

    Returns:
        Matrix (4, 4).

    Example:
        >>> points = np.vstack([np.eye(3), np.zeros((1, 3))])
        >>> fit_similarity(points, 2 * points + 5).round(6)[0].tolist()
        [2.0, 0.0, 0.0, 5.0]
    """
    middle, aim = points.mean(0), targets.mean(0)
    left, values, right = np.linalg.svd((targets - aim).T @ (points - middle))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left * signs @ right
    scale = values @ signs / np.square(points - middle).sum()
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = aim - scale * rotation @ middle
    return matrix


def _key(name: str) -> str:
    return _OLD.get(name.lower(), name.lower())


def _template_electrodes() -> dict[str, np.ndarray]:
    head = head_surfaces.head()
    return {
        name.lower(): place for name, place in zip(head_surfaces.electrode_names(), head.electrodes_mm, strict=True)
    }


def _scale_to_mm(points: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns positions in mm, told by the sphere through them, and a sentence where the unit was wrong."""
    radius = fit_sphere(np.stack(list(points.values())))[1] / 1e3  # in what was declared as m
    for unit, factor in _UNITS:
        if _RADIUS_MM[0] <= radius * factor * 1e3 <= _RADIUS_MM[1]:
            if unit == "m":
                return points, []
            text = f"The electrode positions were in {unit} (head radius {radius:.3g} declared as m): scaled to m."
            return {name: point * factor for name, point in points.items()}, [text]
    if _UNIT_SPHERE[0] <= radius <= _UNIT_SPHERE[1]:
        text = f"The electrode positions lie on a unit sphere (radius {radius:.2f} m): scaled to a head."
        return {name: point * _UNIT_SPHERE_MM / radius / 1e3 for name, point in points.items()}, [text]
    raise ValueError(
        f"The electrode positions lie on a sphere of radius {radius:.3g} m; a head has 0.06 to 0.13 m, and no unit "
        "explains this. Set a montage: recording.set_montage('biosemi64')."
    )


def _fit(
    points: dict[str, np.ndarray], named: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str], list[str], bool]:
    """Returns places, channels whose name they refute, sentences, and whether names fixed the fit."""
    both = [name for name in points if name in named]
    if len(both) >= _PAIRS:
        own, targets = (np.stack([places[name] for name in both]) for places in (points, named))
        matrix, near = _fit_robustly(own, targets)
        fitted = {name: matrix[:3, :3] @ point + matrix[:3, 3] for name, point in points.items()}
        if near.sum() > max(_PAIRS - 1, len(both) * 0.6) and _lie_on_scalp(fitted):
            wrong = [name for name, good in zip(both, near, strict=True) if not good]
            return fitted, wrong, _describe_pairs(points, fitted, wrong), True
        if len(both) > len(points) / 2:
            raise ValueError(
                f"Names and positions of {len(both)} electrodes contradict each other by more than {FAR_MM:g} mm. "
                "Set a montage, or drop the positions: recording.set_montage(None)."
            )
    _check_axes(points)
    fitted = _fit_scalp(points)
    return fitted, both, _describe_pairs(points, fitted, []), False


def _lie_on_scalp(fitted: dict[str, np.ndarray]) -> bool:
    return float(np.median(np.abs(scalp_distance_mm(np.stack(list(fitted.values())))))) <= RMS_MM


def _check_axes(points: dict[str, np.ndarray]) -> None:
    """Raises where a cap is symmetric along y, not x: its x axis points to the nose; mne's points to the right."""
    places = np.stack(list(points.values()))
    centred = places - places.mean(0)
    tree = cKDTree(centred)
    sideways, forwards = (
        float(np.median(tree.query(centred * signs)[0])) for signs in ([-1.0, 1.0, 1.0], [1.0, -1.0, 1.0])
    )
    if sideways > _ASYMMETRY * forwards + 5.0:
        raise ValueError(
            f"The electrode positions are not symmetric from left to right ({sideways:.0f} mm to the mirrored cap, "
            f"{forwards:.0f} mm from front to back): their axes are turned, and no names of the 10-05 system tell how. "
            "Set a montage with x to the right and y to the nose."
        )


def _fit_robustly(own: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits a similarity, leaving out pairs that lie more than 30 mm apart."""
    near = np.ones(len(own), bool)
    matrix = fit_similarity(own, targets)
    for _ in range(5):
        distance = np.linalg.norm(own @ matrix[:3, :3].T + matrix[:3, 3] - targets, axis=1)
        near = distance <= max(FAR_MM, float(np.median(distance)))
        if near.sum() < 4:
            break
        matrix = fit_similarity(own[near], targets[near])
    distance = np.linalg.norm(own @ matrix[:3, :3].T + matrix[:3, 3] - targets, axis=1)
    return matrix, distance <= FAR_MM


def _fit_scalp(points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moves positions from mne's head frame to the template, then by a shift and a scale to its scalp."""
    inverse = np.linalg.inv(head_surfaces.head().head_from_mri)
    placed = np.stack(list(points.values())) @ inverse[:3, :3].T + inverse[:3, 3]
    middle, radius = fit_sphere(placed)
    aim, aim_radius = fit_sphere(head_surfaces.head().electrodes_mm)
    centred = np.linalg.norm(middle - aim) > _PRIOR_MM
    start = np.append(aim - middle, np.log(aim_radius / radius)) if centred else np.zeros(4)

    def moved(values: np.ndarray) -> np.ndarray:
        return middle + values[:3] + (placed - middle) * np.exp(values[3])

    def residuals(values: np.ndarray) -> np.ndarray:
        prior = (values - start) / np.array([_PRIOR_MM] * 3 + [_PRIOR_SCALE]) * 5.0
        return np.append(np.clip(scalp_distance_mm(moved(values)), -60, 60), prior)

    best = least_squares(residuals, start, loss="soft_l1", f_scale=10.0, max_nfev=30).x
    return dict(zip(points, moved(best), strict=True))


def _describe_pairs(points: dict[str, np.ndarray], fitted: dict[str, np.ndarray], wrong: list[str]) -> list[str]:
    inverse = np.linalg.inv(head_surfaces.head().head_from_mri)
    before = np.stack(list(points.values())) @ inverse[:3, :3].T + inverse[:3, 3]
    shift = float(np.sqrt(np.square(np.stack(list(fitted.values())) - before).sum(1).mean()))
    texts = []
    if shift > RMS_MM:
        texts.append(f"The electrode positions were moved by {shift:.0f} mm (RMS) to fit the template's scalp.")
    if wrong:
        texts.append(f"{len(wrong)} electrodes placed by position, for it refutes the name: {', '.join(wrong[:6])}.")
    return texts


def _compare(named: dict[str, np.ndarray], positions_mm: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Warns where recorded positions, fitted in any unit and frame, contradict the names."""
    both = [name for name in named if name in positions_mm]
    if len(both) < _PAIRS:
        return ()
    own, targets = np.stack([positions_mm[name] for name in both]), np.stack([named[name] for name in both])
    matrix = fit_similarity(own, targets)
    distance = np.sqrt(np.square(own @ matrix[:3, :3].T + matrix[:3, 3] - targets).sum(1).mean())
    if distance <= FAR_MM:
        return ()
    text = f"Positions and names of the electrodes differ by {distance:.0f} mm (RMS) after a fit: the names were used."
    return (repair(text),)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
