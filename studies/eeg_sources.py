"""Gates of eeg_sources: the networks beside the classical inverses on sets without inverse crime.

`tools/study eeg_sources` runs them. Truth: boundary elements of grade 4 at places off the grid; every
method inverts with grade 3 on the grid. All are told the number of sources, except in `f1_unknown_20`. Sparse methods
are told the true noise.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.eeg import bank, classical, decode, generator, grid, head_surfaces
from zoo.eeg.kernels import CHANNELS, kernels
from zoo.eeg.leadfield import LeadField, lead_field
from zoo.eeg.sharpening import lengths
from zoo.evaluation import source_localisation
from zoo.hub.trained_models import find
from zoo.source_imaging.locator import Locator
from zoo.tasks import eeg_sources
from zoo.training import batches as feeds
from zoo.training.experiments.study import Criterion, StudyResult, load_or_measure
from zoo.training.network import build

SEED, SIZE = 2026, 60
# mne's sparse inverses take seconds a case: they see the first ones of a set, as the column n says.
SLOW, FIRST = ("irMxNE", "gamma-MAP", "SBL, 40 steps"), 10
GATES = (
    # (set, measure, limit, whether lower is better)
    ("D1", "le_mean_mm", 10.5, True),
    ("D2", "le_mean_mm", 22.0, True),
    ("D2", "recall_20", 0.60, False),
    ("D2", "tp_20", 1.2, False),
    ("D3", "le_mean_mm", 30.0, True),
    ("D3", "recall_20", 0.47, False),
    ("P13", "le_mean_mm", 24.0, True),
    ("P13", "auc", 0.91, False),
    ("D2", "f1_unknown_20", 0.63, False),
    ("D3", "f1_unknown_20", 0.51, False),
)
UNSEEN_HEADS = (200, 201)
UNSEEN_MONTAGES = (21, 32, 128)
PRESENT = 0.1  # a sparse map's peak counts as a source above this share of its largest
SOURCE_STEPS = 150


@dataclasses.dataclass
class Answer:
    """What one method made of a set: places a case, and maps where it has them."""

    places: list[np.ndarray]
    maps: np.ndarray | None = None
    seconds: float = 0.0


def of_maps(maps: np.ndarray, counts: np.ndarray) -> Answer:
    """The largest places of a map, 25 mm apart."""
    positions = grid.grid()[0]
    return Answer(
        [positions[decode.peaks(source_map, k, ball_mm=0.0)[0]] for source_map, k in zip(maps, counts, strict=True)],
        maps,
    )


def classical_methods(field: LeadField, head: head_surfaces.Head) -> dict[str, Callable[[generator.TestSet], Answer]]:
    """Name -> method; each takes a set and is told the numbers of sources."""
    problem = functools.cache(lambda: classical.problem(field, head))
    own = kernels(field)

    def linear(method: str, cases: generator.TestSet) -> Answer:
        return of_maps(classical.linear(problem(), cases.topographies, method), cases.num_sources)

    def blocks(cases: generator.TestSet) -> Answer:
        smooth = own.apply(cases.topographies)[..., CHANNELS.index("sloreta_smooth")]
        return of_maps(grid.from_box(smooth) ** 2, cases.num_sources)

    def each(solve: Callable, cases: generator.TestSet) -> Answer:
        pairs = zip(cases.topographies, cases.noise_sd, strict=True)
        return of_maps(np.stack([solve(topography, float(sd)) for topography, sd in pairs]), cases.num_sources)

    def projections(cases: generator.TestSet) -> Answer:
        pairs = zip(cases.topographies, cases.num_sources, strict=True)
        positions = field.positions_mm
        return Answer(
            [positions[classical.alternating_projections(field, topography, int(k))] for topography, k in pairs]
        )

    return {
        **{name: functools.partial(linear, name) for name in ("MNE", "dSPM", "sLORETA", "eLORETA")},
        "sLORETA, 3x3 blocks": blocks,
        "irMxNE": functools.partial(each, lambda topography, sd: classical.sparse(problem(), topography, sd, "irMxNE")),
        "gamma-MAP": functools.partial(
            each, lambda topography, sd: classical.sparse(problem(), topography, sd, "gamma-MAP")
        ),
        "SBL, 40 steps": functools.partial(each, lambda topography, sd: classical.sparse_bayes(field, topography, sd)),
        "alternating projections": projections,
    }


def random_dots(cases: generator.TestSet) -> Answer:
    """As many dots as there are sources, anywhere."""
    draw = np.random.default_rng(SEED)
    return Answer([source_localisation.draw_dots(int(k), grid.grid()[0], draw) for k in cases.num_sources])


def network(locator: Locator, cases: generator.TestSet, *, refine: bool, known: bool = True) -> Answer:
    """Ours: peaks of the posterior, with or without the dipoles fitted near them."""
    maps, numbers = locator(cases.topographies)
    counts = cases.num_sources
    if not known:
        samples = zip(cases.topographies, maps, numbers, strict=True)
        counts = np.array([locator.count(*sample)[1:].argmax() + 1 for sample in samples])
    places = []
    for sample, topography, k in zip(maps, cases.topographies, counts, strict=True):
        fit = locator.decode(topography, sample, int(k))[0].places if refine else decode.peaks(sample, int(k))[0]
        places.append(locator.field.positions_mm[fit])
    return Answer(places, maps)


def sharpened(locator: Locator, cases: generator.TestSet) -> Answer:
    """What the last map of sparse Bayes finds alone, decoded as ours is: what a network must add to."""
    maps = lengths(grid.from_box(locator.kernels.apply(cases.topographies)[..., -1]))
    maps /= maps.sum(-1, keepdims=True)
    positions, cells = locator.field.positions_mm, zip(maps, cases.topographies, cases.num_sources, strict=True)
    return Answer(
        [positions[locator.decode(data, source_map, int(k))[0].places] for source_map, data, k in cells], maps
    )


def measured(answer: Answer, cases: generator.TestSet, *, with_maps: bool) -> dict[str, float]:
    """Numbers of the table."""
    maps = answer.maps if with_maps else None
    got = source_localisation.summarise(
        answer.places, cases.sources_mm, maps=maps, places_mm=None if maps is None else _places(cases)
    )
    tp, fp, fn = got.counts["one_to_one", 20.0]
    literal = got.counts["literal", 20.0]
    row = {
        "n": got.cases,
        "le_mean_mm": got.le_mean_mm,
        "le_median_mm": got.le_median_mm,
        "recall_10": got.recall[10.0],
        "recall_20": got.recall[20.0],
        "tp_20": tp,
        "fp_20": fp,
        "fn_20": fn,
        "literal_tp_20": literal[0],
        "literal_fp_20": literal[1],
        "literal_fn_20": literal[2],
        "f1_20": got.f1[20.0],
        "dispersion_mm": got.dispersion_mm,
        "auc": got.auc,
        "earth_movers_mm": got.earth_movers_mm,
        "seconds": answer.seconds,
    }
    return {key: round(float(value), 4) if key != "n" else value for key, value in row.items() if np.isfinite(value)}


def _places(cases: generator.TestSet) -> np.ndarray:
    return grid.grid()[0]


def first(cases: generator.TestSet, count: int) -> generator.TestSet:
    """The first cases of a set."""
    parts = {field.name: getattr(cases, field.name)[:count] for field in dataclasses.fields(cases)}
    return dataclasses.replace(cases, **parts | {"names": cases.names})


def timed(method: Callable[[generator.TestSet], Answer], cases: generator.TestSet) -> Answer:
    begin = time.perf_counter()
    answer = method(cases)
    return dataclasses.replace(answer, seconds=(time.perf_counter() - begin) / len(cases.topographies))


def one_set(name: str, locators: Mapping[str, Locator], size: int) -> dict[str, dict[str, float]]:
    """Method -> numbers, on the template and BioSemi-64."""
    names = bank.montage_names("biosemi64")
    field, truth = lead_field().montage(names), generator.truth()
    methods: dict[str, Any] = {"random dots": random_dots, **classical_methods(field, head_surfaces.head())}
    for model, locator in locators.items():
        methods[model] = functools.partial(network, locator, refine=False)
        methods[f"{model} + dipoles"] = functools.partial(network, locator, refine=True)
        if locator.settings.sbl_steps:
            methods["sparse Bayes of the input, with dipoles"] = functools.partial(sharpened, locator)
    cases = generator.make_set(name, truth, names, seed=SEED, size=size)
    table: dict[str, dict[str, float]] = {}
    every = cases
    for method, function in methods.items():
        cases = first(every, FIRST) if method in SLOW else every
        answer = timed(function, cases)
        row = measured(answer, cases, with_maps=answer.maps is not None and "dipoles" not in method)
        if method == "gamma-MAP":
            row["f1_unknown_20"] = measured(_present(answer), cases, with_maps=False)["f1_20"]
        if method.endswith("+ dipoles"):
            open_ = network(locators[method.split(" ")[0]], cases, refine=True, known=False)
            row["f1_unknown_20"] = measured(open_, cases, with_maps=False)["f1_20"]
        table[method] = row
        print(name, method, row, flush=True)
    return table


def _present(answer: Answer) -> Answer:
    """A sparse map's own number of sources: peaks above a tenth of the largest."""
    positions, places = grid.grid()[0], []
    for source_map in answer.maps if answer.maps is not None else []:
        kept, values = decode.peaks(source_map, decode.MAX_SOURCES, ball_mm=0.0)
        places.append(positions[kept[values >= PRESENT * max(values[0], 1e-300)]])
    return Answer(places)


def unseen(locator_of: Callable[[LeadField], Locator], size: int) -> dict[str, dict[str, dict[str, float]]]:
    """D2 on heads and montages that were never trained on: eLORETA and the network + dipoles."""
    names = bank.montage_names("biosemi64")
    table = {}
    for head in UNSEEN_HEADS:
        truth = generator.truth(head)
        table[f"head {head}"] = _pair(locator_of, truth, lead_field(head).montage(names), size)
    draw = np.random.default_rng(SEED)
    truth = generator.truth()
    for count in UNSEEN_MONTAGES:
        field = lead_field().montage(bank.scattered(count, draw))
        table[f"{count} channels"] = _pair(locator_of, truth, field, size)
    return table


def _pair(
    locator_of: Callable[[LeadField], Locator], truth: generator.Truth, field: LeadField, size: int
) -> dict[str, dict[str, float]]:
    cases = generator.make_set("D2", truth, field.names, seed=SEED, size=size)
    current = grid.from_box(np.moveaxis(kernels(field).apply(cases.topographies)[..., :3], -1, 1))
    elor = of_maps(np.square(current).sum(1), cases.num_sources)
    elor.places = [field.positions_mm[decode.peaks(source_map, 2, ball_mm=0.0)[0]] for source_map in elor.maps]
    return {
        "eLORETA": measured(elor, cases, with_maps=False),
        "ours": measured(network(locator_of(field), cases, refine=True), cases, with_maps=False),
    }


def by_group(locator: Locator, size: int) -> list[dict[str, Any]]:
    """D2 and D3 by SNR and depth: mean error of the network + dipoles, of eLORETA and alternating projections."""
    names = bank.montage_names("biosemi64")
    field, truth = lead_field().montage(names), generator.truth()
    rows = []
    for name in ("D2", "D3"):
        cases = generator.make_set(name, truth, names, seed=SEED, size=size)
        methods = classical_methods(field, head_surfaces.head())
        sources = {key: methods[key](cases).places for key in ("eLORETA", "alternating projections")}
        sources["ours"] = network(locator, cases, refine=True).places
        depth = np.nanmean(cases.depth_mm, 1)
        groups = {
            "SNR 5 to 10 dB": cases.snr_db < 10,
            "SNR 10 to 15 dB": (cases.snr_db >= 10) & (cases.snr_db < 15),
            "SNR 15 to 20 dB": cases.snr_db >= 15,
            "mean depth below 30 mm": depth < 30,
            "mean depth 30 mm or more": depth >= 30,
        }
        for group, inside in groups.items():
            row: dict[str, Any] = {"set": name, "group": group, "n": int(inside.sum())}
            for method, places in sources.items():
                errors = [
                    source_localisation.localisation_errors(places[case], cases.sources_mm[case])
                    for case in np.flatnonzero(inside)
                ]
                row[method] = round(float(np.concatenate(errors).mean()), 2) if errors else None
            rows.append(row)
    return rows


def of_the_source(steps: int, size: int) -> dict[str, Any]:
    """The source's own settings: V-Net, potentials as input, cubes of 5 x 5 x 5, cross-entropy of 1e-7 and 1.

    Adam 1e-3 with weight decay 1e-4. Told: how large a share of the brain is called a source, and D2's error.
    """
    from zoo.losses import Combined, location_weighted_entropy
    from zoo.synth.eeg_topographies import Recipe, electrode_volume

    recipe = Recipe(target="dilated")
    task = eeg_sources.VNET.replace(
        channels=("potential", "mask", "x", "y", "z"),
        loss=lambda: Combined([(1.0, location_weighted_entropy)], maps=()),
        optimizer={"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
        samples=functools.partial(eeg_sources.synthesis, inputs="electrodes", recipe=recipe),
    )
    model = build(task, steps)
    for x, y in feeds.synthetic(task, split="train", seed=0, stop=steps):
        model.train_on_batch(x, y)
    names = bank.montage_names("biosemi64")
    cases = generator.make_set("D2", generator.truth(), names, seed=SEED, size=size)
    unit = cases.topographies / np.linalg.norm(cases.topographies, axis=1, keepdims=True)
    padded = np.pad(unit, ((0, 0), (0, bank.CHANNELS - len(names)))).astype(np.float32)
    weights = bank.spread_weights(head_surfaces.head(), names)
    fixed = keras.ops.convert_to_tensor(kernels(lead_field().montage(names)).constant)
    volumes = electrode_volume(padded, weights, fixed, eeg_sources.space())
    logits = np.concatenate([np.asarray(model(volumes[i : i + 8])) for i in range(0, size, 8)])
    values = grid.from_box(logits[..., 0])
    answer = of_maps(1 / (1 + np.exp(-values.astype(float))), cases.num_sources)
    row = measured(answer, cases, with_maps=False)
    return {"steps": steps, "share_called_source": round(float((values > 0).mean()), 4), **row}


def gates(table: Mapping[str, Mapping[str, Mapping[str, float]]], model: str) -> list[Criterion]:
    """The page's gates of one network: positions after the dipole fit, maps before it."""
    rows = []
    for name, measure, limit, lower in GATES:
        value = table[name][model if measure == "auc" else f"{model} + dipoles"].get(measure, float("nan"))
        rows.append(_gate(f"{model}: {name} {measure}", value, limit, lower))
    spread, wide = (table["D2"][key]["dispersion_mm"] for key in (model, "eLORETA"))
    return [*rows, _gate(f"{model}: D2 dispersion over half of eLORETA's", spread / (wide / 2), 1.0, True)]


def _gate(name: str, value: float, limit: float, lower: bool) -> Criterion:
    passed = bool(value <= limit if lower else value >= limit)
    return Criterion(name, f"{'<=' if lower else '>='} {limit:g}", f"{value:.3g}", passed)


def rows_of(table: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A set's methods as rows."""
    return [{"method": method, **{key: f"{value:.4g}" for key, value in row.items()}} for method, row in table.items()]


def card_rows(table: Mapping[str, Mapping[str, Mapping[str, float]]], model: str) -> list[dict[str, Any]]:
    """What goes on the card of a network."""
    columns = ("n", "le_mean_mm", "le_median_mm", "recall_20", "f1_unknown_20")
    return [
        {"model": f"{model}.eeg_sources", "data": f"simulated {name}, fsaverage, BioSemi-64, 5 to 20 dB"}
        | {key: rows[f"{model} + dipoles"][key] for key in columns}
        for name, rows in table.items()
    ]


def run(seeds: int, work: Path) -> StudyResult:
    """Measures what was trained, or what ships; one seed of sets, and the counts of cases on every row.

    Args:
        seeds: not used: the networks are trained once.
        work: the folder of finished parts; trained runs lie beside it.
    """
    del seeds
    models = {name: folder for name in ("unet3d", "vnet") if (folder := _trained(name, work.parent))}
    if not models:
        raise ValueError("There is no trained eeg_sources: run tools/train_eeg_sources first.")
    field = lead_field().montage(bank.montage_names("biosemi64"))
    locators = {name: Locator(folder, field) for name, folder in models.items()}
    first = next(iter(models))
    table = {
        name: load_or_measure(work / f"{name}.json", functools.partial(one_set, name, locators, SIZE))
        for name in generator.SETS
    }
    other = load_or_measure(work / "unseen.json", lambda: unseen(lambda own: Locator(models[first], own), SIZE))
    groups = load_or_measure(work / "groups.json", lambda: by_group(locators[first], SIZE))
    source = load_or_measure(work / "source.json", lambda: of_the_source(SOURCE_STEPS, SIZE))
    criteria = [gate for name in models for gate in gates(table, name)]
    for name, pair in other.items():
        gain = pair["eLORETA"]["le_mean_mm"] - pair["ours"]["le_mean_mm"]
        criteria.append(_gate(f"{first}: {name}, D2, mm better than eLORETA", gain, 8.0, False))
    failing = source["le_mean_mm"] - table["D2"][f"{first} + dipoles"]["le_mean_mm"]
    criteria.append(_gate("the source's own settings, D2, mm worse than ours", failing, 5.0, False))
    tables = {f"{name}, {SIZE} cases, number of sources told": rows_of(rows) for name, rows in table.items()}
    tables |= {f"D2, {name}": rows_of(rows) for name, rows in other.items()}
    tables |= {"Mean error in mm by SNR and depth": groups, "The source's own settings on D2": [source]}
    tables["Rows of the cards"] = [row for name in models for row in card_rows(table, name)]
    settings = {
        "cases a set": SIZE,
        "cases of sparse methods": FIRST,
        "seed": SEED,
        "noise": "white",
        "steps of the source's settings": SOURCE_STEPS,
    }
    return StudyResult(criteria, tables, settings)


def _trained(builder: str, runs: Path) -> Path | None:
    folder = runs / f"eeg_sources_{builder}" / f"{builder}.eeg_sources"
    if folder.exists():
        return folder
    try:
        return find(f"{builder}.eeg_sources")
    except (ValueError, FileNotFoundError):
        return None
