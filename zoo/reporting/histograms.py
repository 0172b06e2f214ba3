"""Draws histograms of a map within its structures; imports matplotlib when drawing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_histogram(
    values: np.ndarray,
    labels: np.ndarray,
    names: Mapping[int, str],
    *,
    limits: tuple[float, float] = (-0.25, 0.25),
    unit: str = "ppm",
    bins: int = 100,
) -> "Figure":
    """Draws the density of a map in each structure, with one line for left and right together.

    Args:
        values: (x, y, z), for example a susceptibility map.
        labels: (x, y, z) label map on the same grid.
        names: value -> name; `left_` and `right_` before it are joined, labels without a name are left out.
        limits: of the axis; values beyond count in the outer bins.
        unit: of the values.
        bins: number of bins.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the two are on different grids.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install 'zoo3d[report]'.") from error
    if values.shape != labels.shape:
        raise ValueError(
            f"Values and labels share a grid, got {values.shape} and {labels.shape}. Resample one of them."
        )
    joined: dict[str, list[int]] = {}
    for value, name in names.items():
        joined.setdefault(name.removeprefix("left_").removeprefix("right_"), []).append(value)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    edges = np.linspace(*limits, bins + 1)
    for number, (name, members) in enumerate(joined.items()):
        inside = np.clip(values[np.isin(labels, members)], *limits)
        if inside.size:
            density, _ = np.histogram(inside, edges, density=True)
            axis.stairs(density, edges, label=name.replace("_", " "), linestyle=("-", "--")[number // 10 % 2])
    axis.set(xlabel=unit, ylabel=f"density (1/{unit})", xlim=limits)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, ncols=2)
    return figure
