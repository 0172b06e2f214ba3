"""Summarises many cases in one table: both means, their confidence intervals, and the counts that a mean leaves out.

A mean over cases skips what is not defined (both masks empty), so every row says how many cases it averages and how
many were empty, missed or invented.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

FLAGS = ("both_empty", "false_alarm", "missed")
MEAN_OF_CASES = "mean of cases"
MEAN_OF_CLASS_MEANS = "mean of class means"
MEANS = (MEAN_OF_CASES, MEAN_OF_CLASS_MEANS)

Cases = Mapping[str, Mapping[int, Mapping[str, float]]]
Row = dict[str, Any]


def case_rows(cases: Cases, *, names: Mapping[int, str] | None = None) -> list[Row]:
    """Returns one row for each case and label: `case`, `label` and every metric, as `segmentation_metrics` gave them.

    Args:
        cases: case -> label -> metric -> value.
        names: label -> its name in the table.

    Example:
        >>> case_rows({"sub-01": {1: {"dice": 0.9}}}, names={1: "lacune"})
        [{'case': 'sub-01', 'label': 'lacune', 'dice': 0.9}]
    """
    return [
        {"case": case, "label": _name_of_label(label, names), **metrics}
        for case, labels in cases.items()
        for label, metrics in labels.items()
    ]


def summarise(
    cases: Cases,
    *,
    names: Mapping[int, str] | None = None,
    metrics: Iterable[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Returns mean, spread and counts of each metric for each label, then over all labels in both ways.

    `"mean of cases"` first averages the labels of a case, then the cases: every case counts alike. `"mean of class
    means"` first averages the cases of a label, then the labels: every label counts alike. They differ when a label is
    not defined in every case.

    Args:
        cases: case -> label -> metric -> value; a label may lack in a case.
        names: label -> its name in the table.
        metrics: names of the metrics; all but the flags by default.
        confidence: of the interval of the mean, 0 to 1.
        resamples: bootstrap samples of whole cases (percentile interval).
        seed: of the bootstrap; the same seed gives the same table.

    Returns:
        Rows of `label`, `metric`, `mean`, `low`, `high` (the interval), `sd` (n - 1), `median`, `n` (defined
        values), and the counts `both_empty`, `false_alarm`, `missed`. A statistic without values is NaN, never 0.

    Raises:
        ValueError: no case, or a confidence or number of resamples out of range.

    Example:
        >>> rows = summarise({"sub-01": {1: {"dice": 0.9}}, "sub-02": {1: {"dice": 0.7}}})
        >>> rows[0]["label"], round(rows[0]["mean"], 3), rows[0]["n"]
        ('1', 0.8, 2)
    """
    if not cases or not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            "summarise needs at least one case, a confidence between 0 and 1 and at least one resample, got "
            f"{len(cases)} cases, {confidence} and {resamples}."
        )
    labels = sorted({label for case in cases.values() for label in case})
    counts = np.random.default_rng(seed).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=resamples)
    bootstrap = _Bootstrap(counts.astype(float), (1 - confidence) / 2)
    flags = {flag: _tabulate(cases, labels, flag) for flag in FLAGS}
    rows: list[Row] = []
    for metric in _list_metrics(cases) if metrics is None else metrics:
        values = _tabulate(cases, labels, metric)
        for column, label in enumerate(labels):
            statistics = bootstrap.column(values[:, column])
            counted = {flag: int(np.nansum(value[:, column])) for flag, value in flags.items()}
            rows.append({"label": _name_of_label(label, names), "metric": metric, **statistics, **counted})
        counted = {flag: int(np.nansum(value)) for flag, value in flags.items()}
        rows.append({"label": MEAN_OF_CASES, "metric": metric, **bootstrap.cases(values), **counted})
        rows.append({"label": MEAN_OF_CLASS_MEANS, "metric": metric, **bootstrap.classes(values), **counted})
    return rows


def ratio(part: float, whole: float) -> float:
    """Returns a part over its whole, NaN where the whole is 0.

    Example:
        >>> ratio(1, 2), ratio(0, 0)
        (0.5, nan)
    """
    return part / whole if whole else float("nan")


def mean(values: Iterable[float]) -> float:
    """Returns the mean of the defined values; NaN (without a warning) without any.

    Example:
        >>> mean([0.5, float("nan"), 1.0])
        0.75
    """
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else float("nan")


def mean_row(
    cases: Iterable[Mapping[str, float]], metrics: Sequence[str], *, spread: Sequence[str] = ()
) -> dict[str, float]:
    """Returns the means over cases as a row of a card.

    Args:
        cases: metric -> value, for each case.
        metrics: those to average, over the cases that have a finite value; a metric without any is left out.
        spread: metrics whose standard deviation over the cases is in the row, too, as `<metric>_sd`.

    Returns:
        `n`, the number of cases, then the means, then the deviations.

    Example:
        >>> mean_row([{"dice": 0.5, "hd95_mm": float("nan")}, {"dice": 1.0}], ["dice", "hd95_mm"], spread=["dice"])
        {'n': 2, 'dice': 0.75, 'dice_sd': 0.25}
    """
    cases = list(cases)
    values = {name: _list_finite(cases, name) for name in (*metrics, *spread)}
    row: dict[str, float] = {"n": len(cases)}
    row |= {name: mean(values[name]) for name in metrics if values[name]}
    return row | {f"{name}_sd": float(np.std(values[name])) for name in spread if values[name]}


def _list_finite(cases: Iterable[Mapping[str, float]], metric: str) -> list[float]:
    return [case[metric] for case in cases if math.isfinite(case.get(metric, math.nan))]


@dataclasses.dataclass(frozen=True)
class _Bootstrap:
    """How often each case is drawn in each resample, (resamples, cases), and the probability of each tail."""

    counts: np.ndarray
    tail: float

    def column(self, values: np.ndarray) -> Row:
        """Returns the statistics of one value a case."""
        return self._describe_column(values, self._average_resamples(values[:, None])[:, 0])

    def cases(self, values: np.ndarray) -> Row:
        """Returns the statistics of the means over labels of each case."""
        return self.column(np.array([mean(row) for row in values]))

    def classes(self, values: np.ndarray) -> Row:
        """Returns the statistics of the means over cases of each label; cases are resampled."""
        means = self._average_resamples(values)
        resampled = np.array([mean(row) for row in means])
        return self._describe_column(np.array([mean(column) for column in values.T]), resampled)

    def _average_resamples(self, values: np.ndarray) -> np.ndarray:
        """Returns the mean of each column in each resample, NaN where a resample has no defined value."""
        defined = ~np.isnan(values)
        drawn = self.counts @ defined
        return np.where(drawn > 0, self.counts @ np.where(defined, values, 0.0) / np.maximum(drawn, 1), np.nan)

    def _describe_column(self, values: np.ndarray, resampled: np.ndarray) -> Row:
        defined, resampled = values[~np.isnan(values)], resampled[~np.isnan(resampled)]
        # One case says nothing about other cases.
        enough = self.counts.shape[1] > 1 and len(defined) > 0 and len(resampled) > 0
        low, high = np.quantile(resampled, [self.tail, 1 - self.tail]) if enough else (np.nan, np.nan)
        return {
            "mean": mean(defined),
            "low": float(low),
            "high": float(high),
            "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan"),
            "median": float(np.median(defined)) if len(defined) else float("nan"),
            "n": len(defined),
        }


def _list_metrics(cases: Cases) -> list[str]:
    """Returns every metric that occurs, in order of first appearance, without the flags."""
    names = {metric: None for labels in cases.values() for metrics in labels.values() for metric in metrics}
    return [metric for metric in names if metric not in FLAGS]


def _tabulate(cases: Cases, labels: list[int], metric: str) -> np.ndarray:
    """Returns (cases, labels), NaN where a case lacks the label or the metric."""
    return np.array([[float(case.get(label, {}).get(metric, math.nan)) for label in labels] for case in cases.values()])


def _name_of_label(label: int, names: Mapping[int, str] | None) -> str:
    return str(label) if names is None else names.get(label, str(label))
