"""`zoo.whatif`: predicts one case under other tabular values, as a table and a picture."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub.card import Card
from zoo.hub.tabular import Tabular, Value, parse_number
from zoo.inference.inputs import Images
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.inference.structure_volumes import volumes
from zoo.progress import progress_bar

TABLE, PLOT = "whatif.csv", "whatif.png"
Row = dict[str, float | str]


@dataclass(frozen=True)
class Sweep:
    """Predicted volumes of one case under many tabular values.

    Attributes:
        model: name of the trained model.
        axes: the fields that were varied, as the card has them, the first slowest.
        fixed: the values that all predictions share.
        rows: a row a combination and structure: the varied values, structure, num_voxels, volume_ml.
    """

    model: str
    axes: tuple[Tabular, ...]
    fixed: dict[str, Value]
    rows: list[Row]

    def volumes_ml(self, structure: str | None = None) -> np.ndarray:
        """Returns volumes in ml of a structure (the first when None), one axis a field: (values of the first, ...)."""
        structure = structure or str(self.rows[0]["structure"])
        volumes_ml = [row["volume_ml"] for row in self.rows if row["structure"] == structure]
        shape = [len(dict.fromkeys(row[axis.name] for row in self.rows)) for axis in self.axes]
        return np.array(volumes_ml, np.float64).reshape(shape)


def whatif(
    model: str | os.PathLike | keras.Model,
    images: Images,
    sweep: Mapping[str, Sequence[Value]],
    *,
    tabular: Mapping[str, Value] | None = None,
    out: str | os.PathLike | None = None,
    card: Card | None = None,
    settings: Settings | None = None,
) -> Sweep:
    """Predicts one case under every combination of some tabular values, and measures the volumes.

    The images are read and normalised once, and the network is compiled once. What comes out is what the model learned
    about these values; it is no evidence of what a treatment would do for a patient.

    Args:
        model: name or folder of a trained model, or a Keras model with a card.
        images: as `zoo.predict` takes them.
        sweep: name of a tabular value -> the values to try, each once, as {"time_to_reperfusion_h": range(13),
            "tici": ["0", "3"]}.
        tabular: values that stay the same; the others are not known.
        out: folder for `whatif.csv` and `whatif.png`, each whole or not at all; None writes nothing.
        card: of a Keras model.
        settings: how to predict.

    Returns:
        The volumes.

    Raises:
        ValueError: nothing to vary, a value both varied and fixed, values that the card does not know or accept, a
            model that gives no labels, or images that cannot be used.
        ImportError: `out` is given and matplotlib is missing.

    Example:
        >>> hours = {"time_to_reperfusion_h": range(13)}
        >>> sweep = whatif("vnet.stroke_outcome", images, hours)  # doctest: +SKIP
        >>> sweep.volumes_ml()  # doctest: +SKIP
    """
    predictor = Predictor(model, card=card, settings=settings)
    axes, fixed = _choose_axes(predictor.card, sweep, tabular or {}), dict(tabular or {})
    combinations = list(itertools.product(*(dict.fromkeys(sweep[axis.name]) for axis in axes)))
    vectors = [
        predictor.encode_tabular({**fixed, **_name_values(axes, values)}) for values in combinations
    ]  # all are checked
    case, rows = predictor.prepare(images), []
    with progress_bar(f"what if, {predictor.card.name}", shown=predictor.settings.progress) as show:
        for index, (values, vector) in enumerate(zip(combinations, vectors, strict=True)):
            show(index, len(combinations))
            image = predictor.predict(case, conditioning=vector)
            for row in volumes(image, predictor.card):
                measured = {name: row[name] for name in ("structure", "num_voxels", "volume_ml")}
                rows.append({**_name_values(axes, values), **measured})
        show(len(combinations), len(combinations))
    result = Sweep(predictor.card.name, axes, fixed, rows)
    if out is not None:
        write(result, out)
    return result


def _choose_axes(card: Card, sweep: Mapping[str, Sequence[Value]], fixed: Mapping[str, Value]) -> tuple[Tabular, ...]:
    fields = {field.name: field for field in card.input.tabular}
    if card.output.kind != "segmentation":
        raise ValueError(f"{card.name} gives no labels but {card.output.kind}, which has no volumes to compare.")
    for name in sweep:
        if name not in fields:
            raise unknown_choice("tabular value", name, fields)
        if name in fixed:
            raise ValueError(f"{name} is varied and fixed to {fixed[name]!r} at once. Leave one out.")
        if not list(sweep[name]):
            raise ValueError(f"There are no values of {name} to try, got {sweep[name]!r}. Name at least one.")
    if not sweep:
        raise ValueError(f"There is nothing to vary. Name values of {', '.join(fields)}.")
    return tuple(fields[name] for name in sweep)


def _name_values(axes: Sequence[Tabular], values: Sequence[Value]) -> dict[str, Any]:
    return {axis.name: value for axis, value in zip(axes, values, strict=True)}


def write(sweep: Sweep, out: str | os.PathLike) -> Path:
    """Writes the table and the picture of a sweep into a folder, which is made where it is not there.

    Returns:
        The folder.

    Raises:
        ImportError: matplotlib is missing.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "volume_ml": f"{row['volume_ml']:.4f}"} for row in sweep.rows]
    files.write_whole(folder / TABLE, files.csv_text(rows).encode())
    files.write_whole(folder / PLOT, draw(sweep))
    return folder


def draw(sweep: Sweep) -> bytes:
    """Draws volume against the first number that is varied, one line for each combination of the others, as PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install 'zoo3d[report]'.") from error
    from zoo.reporting.report import png

    across = next((axis for axis in sweep.axes if not axis.grades), sweep.axes[0])
    structures = list(dict.fromkeys(str(row["structure"]) for row in sweep.rows))
    figure = Figure(figsize=(1.6 + 4.8 * len(structures), 4.2), layout="constrained")
    for panel, structure in zip(figure.subplots(1, len(structures), squeeze=False)[0], structures, strict=True):
        lines = list(_list_lines(sweep, across, structure))
        colours = colormaps["viridis"](np.linspace(0, 0.85, len(lines)))
        for (name, places, heights), colour in zip(lines, colours, strict=True):
            panel.plot(places, heights, "o-", color=colour, label=name, markersize=4, linewidth=1.6)
        panel.set(xlabel=_format_title(across), ylabel="predicted volume (ml)", title=structure)
        panel.set_ylim(bottom=0)
        panel.grid(axis="y", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if across.grades:
            panel.set_xticks(list(across.grades.values()), list(across.grades))
        if len(lines) > 1:
            panel.legend(
                title=", ".join(_format_title(axis) for axis in sweep.axes if axis is not across), frameon=False
            )
    shared = "".join(f", {name} {value}" for name, value in sweep.fixed.items())
    caution = "what the model predicts, not what a treatment would do"
    figure.suptitle(f"{sweep.model}{shared}\n{caution}", fontsize=9)
    return png(figure)


def _list_lines(sweep: Sweep, across: Tabular, structure: str) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yields name, places along the axis and volumes of each line; a value that is not known has no place."""
    others = [axis for axis in sweep.axes if axis is not across]
    lines: dict[str, dict[float, float]] = {}
    for row in sweep.rows:
        place = parse_number(across, row[across.name])
        if row["structure"] == structure and place is not None:
            name = ", ".join(_format_value(row[axis.name]) for axis in others)
            lines.setdefault(name, {})[place] = float(row["volume_ml"])
    for name, points in lines.items():
        places = sorted(points)
        yield name, places, [points[place] for place in places]


def _format_value(value: Value) -> str:
    return "not known" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _format_title(axis: Tabular) -> str:
    words = axis.name.removesuffix(f"_{axis.unit}").replace("_", " ")
    return f"{words} ({axis.unit})" if axis.unit else (words.upper() if axis.grades else words)
