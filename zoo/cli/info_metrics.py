"""The numbers of a card as a person reads them: the headline in tables, the rest on demand."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

Metrics = Mapping[str, float]
FIRST = (  # what a reader looks for first, in this order; a metric that is not named here comes behind
    *("dice", "f1", "sensitivity", "precision", "fp_per_image", "dice_of_hits"),
    *("hd95_mm", "assd_mm", "volume_error_ml", "lesion_f1", "le_mean_mm", "le_median_mm", "recall_20"),
)
GATES = "Gates"  # the table that tools/make_card --gates writes
MOST = 5  # columns of a table beside the count: what 80 columns hold
FAMILY = 4  # so many numbers of one kind ("hd95_mm_caudate", "hd95_mm_putamen", ...) are told as one


def number(value: float) -> str:
    """A number with three digits that count; whole ones as they are."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def families(metrics: Metrics) -> dict[str, list[str]]:
    """Metrics that are one kind for several parts, by what they begin with.

    Args:
        metrics: of one data set.

    Returns:
        The beginning without its last "_" -> names, each in the longest one that has `FAMILY` or more.
    """
    names = [name for name in metrics if name not in FIRST]
    found: dict[str, list[str]] = {}
    for name in names:
        words = name.split("_")
        for length in range(len(words) - 1, 0, -1):
            begun = "_".join(words[:length])
            if sum(other.startswith(f"{begun}_") for other in names) >= FAMILY:
                found.setdefault(begun, []).append(name)
                break
    return found


def headline(metrics: Metrics) -> list[str]:
    """The metrics of a data set that stand for themselves, those of `FIRST` first."""
    many = set(itertools.chain(*families(metrics).values()))
    alone = [name for name in metrics if name != "n" and name not in many]
    return sorted(alone, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def measured(card: Any, *, everything: bool = False) -> Group:
    """What was measured: a table for the data sets that share their first metric, and what else there is.

    Args:
        card: a `zoo.hub.card.Card`.
        everything: every number and table of the card, too.
    """
    parts: list[Any] = [_table(group) for group in _groups(card)]
    parts += [Padding(line, (0, 0, 0, 2)) for line in _gates(card.tables.get(GATES, ())) if not everything]
    if everything:
        parts += [_listed(data, metrics) for data, metrics in card.metrics.items()]
        parts += [_plain(title, rows) for title, rows in card.tables.items()]
    elif rest := _rest(card):
        parts.append(Padding(f"zoo info {card.name} --all shows the rest: {rest}.", (0, 0, 0, 2)))
    spaced = ((part,) if isinstance(part, Padding) and part is not parts[-1] else (part, "") for part in parts)
    return Group(*itertools.chain.from_iterable(spaced))


def _groups(card: Any) -> list[dict[str, Metrics]]:
    """Data sets that share their first metric; those without one are left out."""
    found: dict[str, dict[str, Metrics]] = {}
    for data, metrics in card.metrics.items():
        for first in headline(metrics)[:1]:
            found.setdefault(first, {})[data] = metrics
    return list(found.values())


def _columns(group: Mapping[str, Metrics]) -> list[str]:
    """The metrics that most data sets of a group have, in their order."""
    names = dict.fromkeys(name for metrics in group.values() for name in headline(metrics))
    ranked = sorted(names, key=lambda name: (name not in FIRST, -sum(name in metrics for metrics in group.values())))
    return [name for name in names if name in ranked[:MOST]]


def _table(group: Mapping[str, Metrics]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("measured on")
    table.add_column("n", justify="right")
    columns = _columns(group)
    for name in columns:
        table.add_column(_heading(name), justify="right", no_wrap=True)
    for data, metrics in group.items():
        cells = [number(metrics[name]) if name in metrics else "" for name in columns]
        table.add_row(data, number(metrics["n"]), *cells)
    return table


def _gates(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """How many goals were reached, and which were not; nothing where none was set."""
    missed = [row for row in rows if row.get("") != "passed"]
    told = [f"Of {len(rows)} gates {len(rows) - len(missed)} passed{'; missed:' if missed else '.'}"] if rows else []
    return told + [f"- {row['gate']}: {row['measured']}, goal {row['goal']}" for row in missed]


def _heading(name: str) -> str:
    """A metric's name in lines of about ten letters, so that its column stays as narrow as its numbers."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), 10, break_long_words=False))


def _rest(card: Any) -> str:
    """What the tables leave out, in words."""
    kinds: dict[str, int] = {}
    for metrics in card.metrics.values():
        for begun, names in families(metrics).items():
            kinds[begun] = max(kinds.get(begun, 0), len(names))
    told = [f"{begun.replace('_', ' ')} ({count})" for begun, count in kinds.items()]
    for group in _groups(card):
        every = dict.fromkeys(name for metrics in group.values() for name in headline(metrics))
        told += [name.replace("_", " ") for name in every if name not in _columns(group)]
    return ", ".join([*dict.fromkeys(told), *(title.lower() for title in card.tables)])


def _listed(data: str, metrics: Metrics) -> Group:
    """All numbers of a data set, as many beside each other as the width holds."""
    names = ["n", *headline(metrics), *itertools.chain(*families(metrics).values())]
    cells = [f"{name} {number(metrics[name])}" for name in names]
    return Group(f"  {data}", Padding(Columns(cells, padding=(0, 3), column_first=True), (0, 0, 0, 4)))


def _plain(title: str, rows: Iterable[Mapping[str, str]]) -> Table:
    rows = list(rows)
    table = Table(box=None, title=title, title_justify="left", title_style="", padding=(0, 1))
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return table
