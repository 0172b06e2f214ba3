"""Lays out the numbers of a card: the headline in tables, the rest on demand."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from zoo.hub import goals

Metrics = Mapping[str, float]
FIRST = (  # what a reader looks for first, in this order; other metrics come behind
    *("dice", "f1", "sensitivity", "precision", "fp_per_image", "dice_of_hits"),
    *("hd95_mm", "assd_mm", "volume_error_ml", "lesion_f1", "le_mean_mm", "le_median_mm", "recall_20"),
)
MOST = 5  # columns of a table beside the count: what 80 columns hold
FAMILY = 4  # so many numbers of one kind ("hd95_mm_caudate", "hd95_mm_putamen", ...) are counted as one


def format_number(value: float) -> str:
    """Formats a number with three significant digits; whole ones as they are.

    Example:
        >>> format_number(0.76923), format_number(1865.246)
        ('0.769', '1865')
    """
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def find_families(metrics: Metrics) -> dict[str, list[str]]:
    """Finds metrics that are one kind for several parts, by their common beginning.

    Args:
        metrics: of one data set.

    Returns:
        The beginning without its last "_" -> names, each in the longest one that has `FAMILY` or more.
    """
    names = [name for name in metrics if name not in FIRST]
    families: dict[str, list[str]] = {}
    for name in names:
        words = name.split("_")
        for length in range(len(words) - 1, 0, -1):
            begun = "_".join(words[:length])
            if sum(other.startswith(f"{begun}_") for other in names) >= FAMILY:
                families.setdefault(begun, []).append(name)
                break
    return families


def list_headline(metrics: Metrics) -> list[str]:
    """Lists the metrics of a data set that belong to no family, those of `FIRST` first."""
    many = set(itertools.chain(*find_families(metrics).values()))
    alone = [name for name in metrics if name != "n" and name not in many]
    return sorted(alone, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def show_metrics(card: Any, *, everything: bool = False) -> Group:
    """Returns a table for the data sets that share their first metric, and names the rest.

    Args:
        card: a `zoo.hub.card.Card`.
        everything: every number and table of the card, too.
    """
    parts: list[Any] = [_make_table(group) for group in _group_data_sets(card)]
    if everything:
        parts += [_list_numbers(data, metrics) for data, metrics in card.metrics.items()]
        parts += [_copy_table(title, rows) for title, rows in card.tables.items()]
    else:
        lines = itertools.chain.from_iterable(_count_goals(title, rows) for title, rows in card.tables.items())
        parts += [Padding(line, (0, 0, 0, 2)) for line in lines]
    if not everything and (rest := _name_rest(card)):
        parts.append(Padding(f"zoo info {card.name} --all shows the rest: {rest}.", (0, 0, 0, 2)))
    spaced = ((part,) if isinstance(part, Padding) and part is not parts[-1] else (part, "") for part in parts)
    return Group(*itertools.chain.from_iterable(spaced))


def _group_data_sets(card: Any) -> list[dict[str, Metrics]]:
    """Groups data sets by their first metric; those without one are left out."""
    groups: dict[str, dict[str, Metrics]] = {}
    for data, metrics in card.metrics.items():
        for first in list_headline(metrics)[:1]:
            groups.setdefault(first, {})[data] = metrics
    return list(groups.values())


def _choose_columns(group: Mapping[str, Metrics]) -> list[str]:
    """Returns the metrics that most data sets of a group have, in their order."""
    names = dict.fromkeys(name for metrics in group.values() for name in list_headline(metrics))
    ranked = sorted(names, key=lambda name: (name not in FIRST, -sum(name in metrics for metrics in group.values())))
    return [name for name in names if name in ranked[:MOST]]


def _make_table(group: Mapping[str, Metrics]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("measured on")
    table.add_column("n", justify="right")
    columns = _choose_columns(group)
    for name in columns:
        table.add_column(_wrap_heading(name), justify="right", no_wrap=True)
    for data, metrics in group.items():
        cells = [format_number(metrics[name]) if name in metrics else "" for name in columns]
        table.add_row(data, format_number(metrics["n"]), *cells)
    return table


def _count_goals(title: str, rows: Sequence[goals.Row]) -> list[str]:
    """Counts the goals that were reached, and names the others; nothing for a table of something else."""
    if not goals.has_verdicts(rows):
        return []
    missed = goals.list_missed(rows)
    lines = [f"Of {len(rows)} {title.lower()} {len(rows) - len(missed)} passed{'; missed:' if missed else '.'}"]
    return lines + [f"- {_name_goal(row)}: {row.get('measured')}, goal {row.get('goal')}" for row in missed]


def _name_goal(row: goals.Row) -> str | None:
    """Returns what stands in the first column."""
    return next((text for column, text in row.items() if column != goals.VERDICT), None)


def _wrap_heading(name: str) -> str:
    """Wraps a metric's name at about ten letters, so that its column stays as narrow as its numbers."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), 10, break_long_words=False))


def _name_rest(card: Any) -> str:
    """Names what the tables leave out."""
    kinds: dict[str, int] = {}
    for metrics in card.metrics.values():
        for begun, names in find_families(metrics).items():
            kinds[begun] = max(kinds.get(begun, 0), len(names))
    names = [f"{begun.replace('_', ' ')} ({count})" for begun, count in kinds.items()]
    for group in _group_data_sets(card):
        every = dict.fromkeys(name for metrics in group.values() for name in list_headline(metrics))
        names += [name.replace("_", " ") for name in every if name not in _choose_columns(group)]
    return ", ".join([*dict.fromkeys(names), *(title.lower() for title in card.tables)])


def _list_numbers(data: str, metrics: Metrics) -> Group:
    """Lists all numbers of a data set, as many in a line as fit."""
    names = ["n", *list_headline(metrics), *itertools.chain(*find_families(metrics).values())]
    cells = [f"{name} {format_number(metrics[name])}" for name in names]
    return Group(f"  {data}", Padding(Columns(cells, padding=(0, 3), column_first=True), (0, 0, 0, 4)))


def _copy_table(title: str, rows: Iterable[Mapping[str, str]]) -> Table:
    rows = list(rows)
    table = Table(box=None, title=title, title_justify="left", title_style="", padding=(0, 1))
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return table
