"""One scale against two on lacunes: `tools/study lacunes_scales`; no gate, one table.

Both networks see the same samples, whose surroundings are painted four times as wide as a patch: an hour of two cores.
"""

import functools
import pathlib
from collections.abc import Mapping

from studies.lacunes import CONTEXT, PATCH, SURROUNDED, measured, table, told
from zoo.training.experiments.study import Found, kept


def run(seeds: int, work: pathlib.Path) -> Found:
    """Both settings on every seed."""
    rows: dict[str, list[Mapping[str, float]]] = {name: [] for name in SURROUNDED}
    for seed in range(seeds):
        for name, found in rows.items():
            found.append(kept(work / f"{name}_{seed}.json", functools.partial(measured, name, seed)))
    wide = f"{CONTEXT} times as wide, painted to {CONTEXT * PATCH} mm a side around patches"
    return Found([], {"One scale and two": table(rows)}, {**told(seeds), "surroundings": wide})
