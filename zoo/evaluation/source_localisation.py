"""Measures how well sources in the brain were found: points against points, and maps against points, in mm."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from zoo.errors import unknown_choice
from zoo.evaluation.aggregate import ratio

CONVENTIONS = ("one_to_one", "literal")
RADII_MM = (10.0, 20.0)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sources found, invented and missed.

    Attributes:
        tp: true sources that were found.
        fp: predicted sources less `tp`; under `"literal"` negative where one dot serves for several true ones.
        fn: true sources less `tp`.
    """

    tp: int
    fp: int
    fn: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where there is neither a true nor a predicted source."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Means over the cases of a set; NaN without values.

    Attributes:
        cases: their number.
        le_mean_mm: localisation error, mean over all matched pairs.
        le_median_mm: their median.
        recall: radius in mm -> matched true sources over true sources, one to one.
        counts: (convention, radius in mm) -> mean TP, FP, FN a case.
        f1: radius in mm -> F1 of the counts summed over the cases, one to one.
        dispersion_mm: mean; NaN without maps.
        auc: mean; NaN without maps.
        earth_movers_mm: mean; NaN without maps.
    """

    cases: int
    le_mean_mm: float
    le_median_mm: float
    recall: dict[float, float]
    counts: dict[tuple[str, float], tuple[float, float, float]]
    f1: dict[float, float]
    dispersion_mm: float = float("nan")
    auc: float = float("nan")
    earth_movers_mm: float = float("nan")


def localisation_errors(predicted_mm: np.ndarray, true_mm: np.ndarray) -> np.ndarray:
    """Returns the distances of the pairs of the one-to-one assignment with the smallest sum.

    Args:
        predicted_mm: (m, 3).
        true_mm: (n, 3).

    Returns:
        (min(m, n),) in mm; with the number of sources known, one for each source.

    Example:
        >>> localisation_errors(np.array([[0, 0, 3], [50, 0, 0]]), np.array([[0, 0, 0]]))
        array([3.])
    """
    distances = cdist(check_dots(predicted_mm, "predicted_mm"), check_dots(true_mm, "true_mm"))
    return distances[optimize.linear_sum_assignment(distances)]


def count_sources(
    predicted_mm: np.ndarray, true_mm: np.ndarray, *, radius_mm: float, convention: str = "one_to_one"
) -> Counts:
    """Counts the sources found within a radius.

    Args:
        predicted_mm: (m, 3), m may be 0.
        true_mm: (n, 3), n may be 0.
        radius_mm: a dot at exactly this distance is found.
        convention: `"one_to_one"`, the largest matching in which no dot serves twice; `"literal"`, that of
            Kalinichenko, Kozhevnikov and Tikhonov: TP = true dots with any predicted dot within the radius,
            FP = m - TP, FN = n - TP, so that one dot between two sources finds both.

    Raises:
        ValueError: a bad shape, radius or convention.

    Example:
        >>> count_sources(np.array([[0, 0, 3], [50, 0, 0]]), np.array([[0, 0, 0]]), radius_mm=10)
        Counts(tp=1, fp=1, fn=0)
    """
    if convention not in CONVENTIONS:
        raise unknown_choice("convention", convention, CONVENTIONS)
    if not radius_mm > 0:
        raise ValueError(f"radius_mm must be above 0, got {radius_mm}.")
    near = cdist(check_dots(predicted_mm, "predicted_mm"), check_dots(true_mm, "true_mm")) <= radius_mm
    if convention == "literal":
        tp = int(near.any(0).sum())
    else:
        tp = int(near[optimize.linear_sum_assignment(near, maximize=True)].sum())
    return Counts(tp, len(predicted_mm) - tp, len(true_mm) - tp)


def draw_dots(num: int, places_mm: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws as many dots anywhere in the same space, (num, 3), none twice: the yardstick of a localisation."""
    return places_mm[random.choice(len(places_mm), num, replace=False)]


def dispersion(mass: np.ndarray, places_mm: np.ndarray, true_mm: np.ndarray) -> float:
    """Returns the spread of a map around the nearest true source: sqrt(sum p d^2 / sum p), mm.

    Args:
        mass: (places,), >= 0 and not all 0.
        places_mm: (places, 3).
        true_mm: (n, 3), n >= 1.

    Example:
        >>> dispersion(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 2]]), np.array([[0, 0, 1]]))
        1.0
    """
    weights = _to_unit_mass(mass, places_mm)
    return float(np.sqrt(weights @ np.square(_distance_to_nearest(places_mm, true_mm))))


def auc(mass: np.ndarray, places_mm: np.ndarray, true_mm: np.ndarray, *, radius_mm: float = 10.0) -> float:
    """Returns the area under the ROC curve of a map against places within `radius_mm` of a true source.

    Returns:
        0 to 1; NaN where all places or none lie within the radius.

    Example:
        >>> auc(np.array([3, 1]), np.array([[0, 0, 0], [0, 0, 20]]), np.array([[0, 0, 1]]))
        1.0
    """
    positive = _distance_to_nearest(places_mm, true_mm) <= radius_mm
    hits, others = int(positive.sum()), int((~positive).sum())
    if not hits or not others:
        return float("nan")
    ranks = rankdata(_to_unit_mass(mass, places_mm))
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * others))


def earth_movers(
    mass: np.ndarray, places_mm: np.ndarray, true_mm: np.ndarray, *, shares: Sequence[float] | None = None
) -> float:
    """Returns the earth mover's distance of a map of unit mass to its true sources: the cheapest transport, to 1e-3 mm.

    Args:
        mass: (places,), >= 0 and not all 0.
        places_mm: (places, 3).
        true_mm: (n, 3), n >= 1.
        shares: (n,) of the true sources, > 0; equal when None.

    Example:
        >>> places = np.array([[0, 0, 0], [0, 0, 2]])
        >>> round(earth_movers(np.array([1, 1]), places, np.array([[0, 0, 0]])), 3)
        1.0
    """
    weights = _to_unit_mass(mass, places_mm)
    positive = weights > 0
    distances = cdist(places_mm[positive], check_dots(true_mm, "true_mm"))
    goal = np.full(len(true_mm), 1.0) if shares is None else np.asarray(shares, float)
    return _cost_of_transport(weights[positive], distances, goal / goal.sum())


def _cost_of_transport(mass: np.ndarray, distances: np.ndarray, goal: np.ndarray) -> float:
    """Returns the cost of the cheapest transport of `mass` (n,) to `goal` (k,), to 1e-3.

    The dual, sum_i p_i min_j (d_ij - g_j) + sum_j w_j g_j, is concave with one unknown a source: cutting planes
    (Kelley, J SIAM 1960) bracket its maximum in a few dozen steps, where the transport itself has n * k unknowns.
    """
    num, reach = len(goal), float(distances.max())
    prices, best, cuts, limits = np.zeros(num), -np.inf, [], []
    for _ in range(2000):
        reduced = distances - prices
        nearest = reduced.argmin(1)
        value = mass @ reduced[np.arange(len(mass)), nearest] + goal @ prices
        slope = goal - np.bincount(nearest, mass, num)
        best = max(best, value)
        cuts.append([*-slope, 1.0])
        limits.append(value - slope @ prices)
        bounds = [(0, 0), *[(-reach, reach)] * (num - 1), (None, None)]
        plane = optimize.linprog([*np.zeros(num), -1.0], A_ub=cuts, b_ub=limits, bounds=bounds, method="highs")
        if not plane.success:
            raise ArithmeticError(f"The transport problem was not solved: {plane.message}")
        if -plane.fun - best < 1e-3:
            break
        prices = plane.x[:num]
    return float(best)


def summarise(
    predicted: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    *,
    maps: np.ndarray | None = None,
    places_mm: np.ndarray | None = None,
    radii_mm: Sequence[float] = RADII_MM,
) -> Summary:
    """Returns all measures of a set of cases.

    Args:
        predicted: one (m, 3) for each case, mm.
        true: one (n, 3) for each case, mm.
        maps: (cases, places), >= 0; adds dispersion, AUC and the earth mover's distance.
        places_mm: (places, 3) of the maps.
        radii_mm: for recall, counts and F1.

    Raises:
        ValueError: numbers of cases differ, or there is none.

    Example:
        >>> summary = summarise([np.array([[0, 0, 3]])], [np.array([[0, 0, 0]])])
        >>> summary.le_mean_mm, summary.f1[10.0]
        (3.0, 1.0)
    """
    if len(predicted) != len(true) or not len(true):
        raise ValueError(f"There must be one prediction a case, got {len(predicted)} for {len(true)} cases.")
    pairs = list(zip(predicted, true, strict=True))
    errors = np.concatenate([localisation_errors(*pair) for pair in pairs])
    totals = {
        (kind, radius): np.array(
            [dataclasses.astuple(count_sources(*pair, radius_mm=radius, convention=kind)) for pair in pairs], float
        )
        for kind in CONVENTIONS
        for radius in radii_mm
    }
    sums = {radius: totals["one_to_one", radius].sum(0) for radius in radii_mm}
    return Summary(
        cases=len(true),
        le_mean_mm=float(errors.mean()) if errors.size else float("nan"),
        le_median_mm=float(np.median(errors)) if errors.size else float("nan"),
        recall={radius: float(tp / max(tp + fn, 1)) for radius, (tp, _, fn) in sums.items()},
        counts={key: tuple(value.mean(0).tolist()) for key, value in totals.items()},
        f1={radius: Counts(int(tp), int(fp), int(fn)).f1 for radius, (tp, fp, fn) in sums.items()},
        **({} if maps is None else _score_maps(maps, places_mm, true)),
    )


def _score_maps(maps: np.ndarray, places_mm: np.ndarray | None, true: Sequence[np.ndarray]) -> dict[str, float]:
    if places_mm is None:
        raise ValueError("maps need places_mm, the position of each place in mm.")
    cases = [(mass, places_mm, points) for mass, points in zip(maps, true, strict=True)]
    return {
        "dispersion_mm": float(np.mean([dispersion(*case) for case in cases])),
        "auc": float(np.nanmean([auc(*case) for case in cases])),
        "earth_movers_mm": float(np.mean([earth_movers(*case) for case in cases])),
    }


def check_dots(points_mm: np.ndarray, name: str = "points_mm") -> np.ndarray:
    """Checks points and returns them as (n, 3) float64.

    Raises:
        ValueError: a wrong shape, or a coordinate that is not finite.
    """
    points = np.asarray(points_mm, float)
    if points.size == 0:
        points = points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"{name} must be finite and of shape (n, 3), in mm, got shape {points.shape}.")
    return points


def _distance_to_nearest(places_mm: np.ndarray, true_mm: np.ndarray) -> np.ndarray:
    points = check_dots(true_mm, "true_mm")
    if not len(points):
        raise ValueError("A map is measured against 1 or more true sources, got none.")
    return cdist(places_mm, points).min(1)


def _to_unit_mass(mass: np.ndarray, places_mm: np.ndarray) -> np.ndarray:
    weights = np.asarray(mass, float)
    if weights.shape != (len(places_mm),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"A map must be ({len(places_mm)},), finite, >= 0 and not all 0, got shape {weights.shape}.")
    return weights / weights.sum()
