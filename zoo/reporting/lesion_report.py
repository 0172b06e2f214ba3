"""Makes the report sections about lesions: sensitivity by size and region, and pictures of missed and false ones."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.evaluation import lesions
from zoo.evaluation.froc import FALSE_POSITIVE_RATES, Detections, Froc, froc, mean_sensitivity
from zoo.evaluation.lesions import Lesion, Matching
from zoo.reporting.report import Picture, Section, png

SIZES_MM = (3.0, 5.0, 8.0, 15.0)
SHOWN = 48  # thumbnails of each kind: more make a page that nobody looks through
POOLED = (
    "sensitivity", "precision", "f1", "dice_of_hits", "panoptic_quality", "segmentation_quality", "recognition_quality",
)  # fmt: skip
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LesionCase:
    """The lesions of one label in one case.

    Attributes:
        case: its name.
        label: name of the label.
        matching: of the reference lesions and the predicted ones; `region` of each is a key of `regions`.
        affine: (4, 4), voxels to mm.
        detections: candidates for the FROC curve; None where probabilities were not kept.
        regions: value -> name; empty where regions are not known.
    """

    case: str
    label: str
    matching: Matching
    affine: np.ndarray
    detections: Detections | None = None
    regions: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def region(self, lesion: Lesion) -> str:
        """Returns the name of the region of a lesion; "unknown" without regions."""
        return self.regions.get(lesion.region, "outside") if self.regions else "unknown"

    def centre_mm(self, lesion: Lesion) -> tuple[float, float, float]:
        """Returns the centre of a lesion in the world coordinates of its scan."""
        x, y, z = (self.affine @ [*lesion.centre, 1.0])[:3].tolist()
        return x, y, z


Draw = Callable[[LesionCase, Lesion], bytes]


def summary(cases: Sequence[LesionCase]) -> Row:
    """Scores the lesions of all cases together, so that each lesion counts equally."""
    scores = lesions.pool_scores([case.matching for case in cases])
    counts = {name: int(scores[name]) for name in ("lesions", "found", "detections", "false_positives")}
    rates = {name: scores[name] for name in ("fp_per_image", *POOLED)}
    return {"label": cases[0].label, "images": len(cases), **counts, **rates}


def rows(cases: Sequence[LesionCase]) -> list[Row]:
    """Returns one row for each reference lesion and each false one, for a table of all."""
    return [
        _lesion_row(case, lesion, outcome)
        for case in cases
        for outcome in ("found", "missed", "false")
        for lesion in _select_lesions(case, outcome)
    ]


def _select_lesions(case: LesionCase, outcome: str) -> list[Lesion]:
    side = case.matching.prediction if outcome == "false" else case.matching.reference
    return [lesion for lesion in side if bool(lesion.matches) == (outcome == "found")]


def _lesion_row(case: LesionCase, lesion: Lesion, outcome: str) -> Row:
    x, y, z = case.centre_mm(lesion)
    return {
        "case": case.case,
        "label": case.label,
        "outcome": outcome,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "diameter_mm": lesion.diameter_mm,
        "volume_mm3": 1000 * lesion.volume_ml,
        "region": case.region(lesion),
        "dice": lesion.dice if outcome == "found" else math.nan,
    }


def sections(cases: Sequence[LesionCase], draw: Draw, *, sizes_mm: Sequence[float] = SIZES_MM) -> list[Section]:
    """Makes the report sections about the lesions of one label.

    Args:
        cases: of one label.
        draw: makes a PNG around a lesion of a case.
        sizes_mm: edges of the diameter bins.
    """
    note = (
        "Each connected piece is one lesion. It is found where one voxel of it was drawn; a drawn piece that touches "
        "none is false. All lesions count alike, whatever case they are of."
    )
    return [
        Section(f"Lesions: {cases[0].label}", note, _as_two_columns(summary(cases))),
        *_froc_section(cases),
        Section(f"{cases[0].label}: by diameter", "In mm, of the ball of the same volume.", by_size(cases, sizes_mm)),
        *_region_section(cases),
        _draw_gallery(cases, "missed", draw),
        _draw_gallery(cases, "false", draw),
    ]


def _as_two_columns(row: Row) -> list[Row]:
    """Turns a row into a table of two columns, which fits a narrow screen."""
    words = {"fp_per_image": "false positives an image", "f1": "F1", "dice_of_hits": "Dice of hits"}
    measures = {name: words.get(name, name.replace("_", " ")) for name in row}
    return [{"measure": measures[name], "value": value} for name, value in row.items() if name != "label"]


def by_size(cases: Sequence[LesionCase], edges_mm: Sequence[float] = SIZES_MM) -> list[Row]:
    """Returns sensitivity and false positives in bins of diameter."""
    groups = lesions.sensitivity_by([case.matching for case in cases], lesions.size_bin(edges_mm))
    return [_group_row(_name_bin(row["group"]), row, "diameter, mm") for row in groups]


def _name_bin(group: Any) -> str:
    low, high = group
    return f"{low:g} to {high:g}" if high < math.inf else f"from {low:g}"


def by_region(cases: Sequence[LesionCase]) -> list[Row]:
    """Returns sensitivity and false positives in each region, sorted by name."""
    totals: dict[str, dict[str, float]] = {}
    for case in cases:
        for row in lesions.sensitivity_by([case.matching], case.region):
            total = totals.setdefault(str(row["group"]), dict.fromkeys(("lesions", "found", "false_positives"), 0.0))
            for name in total:
                total[name] += float(row[name])
    return [_group_row(name.replace("_", " "), row, "region") for name, row in sorted(totals.items())]


def _group_row(name: str, row: Mapping[str, Any], title: str) -> Row:
    num_lesions, hits = int(row["lesions"]), int(row["found"])
    shares = {"sensitivity": hits / num_lesions if num_lesions else math.nan, "false": int(row["false_positives"])}
    return {title: name, "lesions": num_lesions, "found": hits, **shares}


def _region_section(cases: Sequence[LesionCase]) -> list[Section]:
    known = any(case.regions for case in cases)
    return [Section(f"{cases[0].label}: by region", "Where the centre lies.", by_region(cases))] if known else []


def _froc_section(cases: Sequence[LesionCase]) -> list[Section]:
    images = [case.detections for case in cases if case.detections is not None]
    if len(images) < len(cases) or not sum(image.num_lesions for image in images):
        return []
    curve = froc(images)
    at = [(f"{rate:g}", mean_sensitivity(curve, at=(rate,))) for rate in FALSE_POSITIVE_RATES]
    table = [{"false lesions an image": name, "sensitivity": value} for name, value in at]
    table.append({"false lesions an image": "mean of these", "sensitivity": mean_sensitivity(curve)})
    note = (
        "Candidates are pieces of the probability map above a low threshold, before any filter by size or shape; each "
        "is as sure as its surest voxel. Sensitivity is the best that stays within a rate; nothing is interpolated."
    )
    return [Section(f"{cases[0].label}: FROC", note, table, [draw_froc(curve, _operating_point(cases))])]


def _operating_point(cases: Sequence[LesionCase]) -> tuple[float, float]:
    row = summary(cases)
    return row["fp_per_image"], row["sensitivity"]


def draw_froc(curve: Froc, point: tuple[float, float] | None = None) -> Picture:
    """Draws sensitivity against false positives an image.

    Args:
        curve: from `zoo.evaluation.froc.froc`.
        point: false positives an image and sensitivity of the labels as they are drawn.
    """
    from matplotlib.figure import Figure

    most = max(16.0, float(curve.false_positives[-1]))
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    x, y = np.append(curve.false_positives, most), np.append(curve.sensitivity, curve.sensitivity[-1])
    axis.step(x, y, where="post", color="#2a6f97", linewidth=1.8)
    if point is not None:
        axis.plot(*point, "o", color="#c1121f", markersize=7, label="labels as drawn")
        axis.legend(frameon=False, loc="lower right")
    ticks = [0, *FALSE_POSITIVE_RATES]
    axis.set_xscale("symlog", linthresh=0.5, base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="false lesions an image", ylabel="sensitivity", xlim=(0, 16.5), ylim=(0, 1.03))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    caption = f"Mean sensitivity at 0.5, 1, 2, 4, 8 and 16 false lesions: {mean_sensitivity(curve):.3f}."
    return Picture(png(figure), caption)


def _draw_gallery(cases: Sequence[LesionCase], outcome: str, draw: Draw) -> Section:
    """Draws thumbnails of the missed or the false lesions, the largest first."""
    pairs = [(case, lesion) for case in cases for lesion in _select_lesions(case, outcome)]
    pairs.sort(key=lambda pair: -pair[1].volume_ml)
    title = f"{cases[0].label}: {len(pairs)} {outcome}"
    if not pairs:
        return Section(title, "There is none.")
    note = "Sagittal, coronal and axial through its centre, one row a channel. Yellow: reference; blue: prediction. "
    note += "The largest first"
    note += f"; {len(pairs) - SHOWN} smaller ones are not shown, lesions.csv has all." if len(pairs) > SHOWN else "."
    shown = pairs[:SHOWN]
    # Drawn case by case, so that the volumes of each are read once.
    drawn = {place: draw(*shown[place]) for place in sorted(range(len(shown)), key=lambda place: shown[place][0].case)}
    pictures = [Picture(drawn[place], _write_caption(case, lesion)) for place, (case, lesion) in enumerate(shown)]
    return Section(title, note, thumbnails=pictures)


def _write_caption(case: LesionCase, lesion: Lesion) -> str:
    place = ", ".join(f"{value:.0f}" for value in case.centre_mm(lesion))
    region = f", {case.region(lesion).replace('_', ' ')}" if case.regions else ""
    return f"{case.case}: {lesion.diameter_mm:.1f} mm at ({place}) mm{region}"
