"""The classical EEG inverses alone, by set, SNR, depth and number of sources: python studies/eeg_classical.py

Truth: boundary elements of grade 4 at places off the grid; every method inverts with grade 3 on the grid, on fsaverage
with BioSemi-64. The number of sources is told; sparse methods are told the true noise as well. LCMV and RAP-MUSIC see
segments of 50 samples with uncorrelated sources, all others one topography; mne's dipole fit sees the first cases of
D1. Results go to `results/eeg_classical.json` and `.md`.
"""

import argparse
import concurrent.futures
import datetime
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the parallel work is one set a process

import numpy as np

from zoo.eeg import classical, decode, generator, grid, head_surfaces
from zoo.eeg.kernels import CHANNELS, kernels
from zoo.eeg.leadfield import LeadField, conductor, lead_field
from zoo.evaluation import source_localisation

SEED, SAMPLES, FITTED = 2026, 50, 20
MONTAGE = "biosemi64"
RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = (
    "set", "group", "method", "n", "le_mean_mm", "le_median_mm", "recall_10", "recall_20", "tp_20", "fp_20", "fn_20",
    "literal_tp_20", "dispersion_mm", "auc", "earth_movers_mm", "seconds",
)  # fmt: skip


@functools.cache
def setting() -> tuple[classical.Problem, generator.Truth]:
    """The inverse problem on the template and the field of the truth."""
    names = head_surfaces.require_mne().channels.make_standard_montage(MONTAGE).ch_names
    return classical.problem(lead_field().montage(names), head_surfaces.head()), generator.truth()


def peaks(source_map: np.ndarray, num: int) -> np.ndarray:
    """The largest places of a map, 25 mm apart; fewer where the map is zero elsewhere."""
    places, mass = decode.peaks(source_map, num, ball_mm=0.0)
    return grid.grid()[0][places[mass > 0]]


def of_topographies(problem: classical.Problem, cases: generator.TestSet) -> dict[str, Callable[[], np.ndarray]]:
    """Method -> maps (n, places)."""
    field: LeadField = problem.field
    pairs = list(zip(cases.topographies, cases.noise_sd.tolist(), strict=True))

    def sloreta() -> np.ndarray:
        maps = kernels(field).apply(cases.topographies)[..., CHANNELS.index("sloreta_smooth")]
        return grid.from_box(maps).astype(float) ** 2

    def each(solve: Callable) -> np.ndarray:
        return np.stack([solve(topography, sd) for topography, sd in pairs])

    methods: dict[str, Callable[[], np.ndarray]] = {
        name: functools.partial(classical.linear, problem, cases.topographies, name) for name in classical.LINEAR
    }
    methods["sLORETA, 3x3 blocks"] = sloreta
    for name in classical.SPARSE:
        methods[name] = functools.partial(
            each, lambda topography, sd, name=name: classical.sparse(problem, topography, sd, name)
        )
    methods["SBL, 40 steps"] = functools.partial(
        each, lambda topography, sd: classical.sparse_bayes(field, topography, sd)
    )
    return methods


def of_segments(problem: classical.Problem, cases: generator.TestSet) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Method -> positions a case, for segments of uncorrelated sources."""
    parts = list(zip(cases.topographies, cases.noise_sd.tolist(), cases.num_sources.tolist(), strict=True))
    return {
        "LCMV, 50 samples": lambda: [peaks(classical.lcmv(problem, segment, sd), num) for segment, sd, num in parts],
        "RAP-MUSIC, 50 samples": lambda: [classical.rap_music(problem, segment, sd, num) for segment, sd, num in parts],
    }


def groups(cases: generator.TestSet) -> dict[str, np.ndarray]:
    """Name -> which cases."""
    depth, number = np.nanmean(cases.depth_mm, 1), cases.num_sources
    members = {
        "all": np.ones(len(number), bool),
        "5 to 10 dB": cases.snr_db < 10,
        "10 to 15 dB": (cases.snr_db >= 10) & (cases.snr_db < 15),
        "15 to 20 dB": cases.snr_db >= 15,
        "mean depth below 30 mm": depth < 30,
        "mean depth 30 mm or more": depth >= 30,
    }
    if len(np.unique(number)) > 1:
        members |= {f"{num} sources": number == num for num in np.unique(number)}
    return {name: inside for name, inside in members.items() if inside.any()}


def row(cases: generator.TestSet, inside: np.ndarray, sources: list[np.ndarray], maps: np.ndarray | None) -> dict:
    """The numbers of some cases."""
    which = np.flatnonzero(inside)
    maps = None if maps is None or not maps[which].any(1).all() else maps[which]
    places = None if maps is None else grid.grid()[0].astype(float)
    got = source_localisation.summarise(
        [sources[k] for k in which], [cases.sources_mm[k] for k in which], maps=maps, places_mm=places
    )
    tp, fp, fn = got.counts["one_to_one", 20.0]
    numbers = {
        "n": got.cases, "le_mean_mm": got.le_mean_mm, "le_median_mm": got.le_median_mm, "recall_10": got.recall[10.0],
        "recall_20": got.recall[20.0], "tp_20": tp, "fp_20": fp, "fn_20": fn,
        "literal_tp_20": got.counts["literal", 20.0][0], "dispersion_mm": got.dispersion_mm, "auc": got.auc,
        "earth_movers_mm": got.earth_movers_mm,
    }  # fmt: skip
    return {key: round(float(value), 3) for key, value in numbers.items() if np.isfinite(value)}


def measure(name: str, size: int) -> list[dict[str, Any]]:
    """All rows of one set."""
    problem, truth = setting()
    make = functools.partial(generator.make_set, name, truth, problem.field.names, seed=SEED, size=size)
    cases, rows = make(), []

    def add(
        method: str, sources: list[np.ndarray], maps: np.ndarray | None, of: generator.TestSet, begin: float
    ) -> None:
        seconds = round((time.perf_counter() - begin) / len(sources), 3)
        for group, inside in groups(of).items():
            rows.append(
                {"set": name, "group": group, "method": method, **row(of, inside, sources, maps), "seconds": seconds}
            )
        print(json.dumps(next(line for line in reversed(rows) if line["group"] == "all")), flush=True)

    begin, draw = time.perf_counter(), np.random.default_rng(SEED)
    add(
        "random dots",
        [source_localisation.draw_dots(int(k), grid.grid()[0], draw) for k in cases.num_sources],
        None,
        cases,
        begin,
    )
    begin = time.perf_counter()
    inside = [
        grid.grid()[0][classical.alternating_projections(problem.field, line, int(k))]
        for line, k in zip(cases.topographies, cases.num_sources, strict=True)
    ]
    add("dipole scan" if name == "D1" else "alternating projections", inside, None, cases, begin)
    for method, solve in of_topographies(problem, cases).items():
        begin = time.perf_counter()
        maps = solve()
        add(method, [peaks(line, int(k)) for line, k in zip(maps, cases.num_sources, strict=True)], maps, cases, begin)
    segments = make(samples=SAMPLES)
    for method, locate in of_segments(problem, segments).items():
        begin = time.perf_counter()
        add(method, locate(), None, segments, begin)
    if name == "D1":
        few = make(size=min(size, FITTED))
        begin = time.perf_counter()
        sd = float(np.median(few.noise_sd))
        fitted = classical.dipole_fit(problem, few.topographies, sd, model=conductor(problem.head))
        add("dipole fit, continuous", list(fitted[:, None]), None, few, begin)
    return rows


def write(rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """The JSON and the tables."""
    RESULTS.mkdir(exist_ok=True)
    content = {"what": "eeg_classical", "date": datetime.date.today().isoformat(), "settings": settings, "rows": rows}
    (RESULTS / "eeg_classical.json").write_text(json.dumps(content, indent=1) + "\n")
    conditions = "; ".join(f"{key} {value}" for key, value in settings.items())
    lines = ["# Classical EEG inverses", "", __doc__.split("\n\n")[1], "", f"Settings: {conditions}.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(line.get(key, "")) for key in COLUMNS) + " |" for line in rows]
    (RESULTS / "eeg_classical.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measures the sets, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=40, help="cases a set")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sets", nargs="+", default=list(generator.SETS), choices=list(generator.SETS))
    options = parser.parse_args()
    setting()
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        parts = list(pool.map(measure, options.sets, [options.size] * len(options.sets)))
    rows = [line for part in parts for line in part]
    rows.sort(key=lambda line: (line["group"] != "all", list(generator.SETS).index(line["set"]), line["group"]))
    write(rows, {"cases a set": options.size, "seed": SEED, "montage": MONTAGE, "noise": "white", "samples": SAMPLES})


if __name__ == "__main__":
    main()
