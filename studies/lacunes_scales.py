"""One scale against two on lacunes: `tools/study lacunes_scales`; no criterion, one table.

Both networks see the same samples, whose surroundings are painted four times as wide as a patch: an hour of two cores.
"""

import pathlib

from studies.lacunes import CONTEXT, PATCH, SURROUNDED, describe_settings, measure, table
from zoo.training.experiments.study import StudyResult, measure_settings


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """Measures both settings on every seed."""
    rows = measure_settings(SURROUNDED, seeds, work, measure)
    wide = f"{CONTEXT} times as wide, painted to {CONTEXT * PATCH} mm a side around patches"
    return StudyResult([], {"One scale and two": table(rows)}, {**describe_settings(seeds), "surroundings": wide})
