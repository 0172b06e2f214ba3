"""Predicts scans for `zoo predict`: label maps or values on their grids, and the tables made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel

from zoo.datasets.cases import Case, stem
from zoo.errors import collect_warnings, to_line
from zoo.hub import card_file
from zoo.hub.card import Card
from zoo.inference.cohort import Report, Writer, name_inputs, name_results, predict_many
from zoo.inference.inputs import Images
from zoo.inference.structure_volumes import volumes, write_volumes
from zoo.workflows import lesion_tables, susceptibility_tables
from zoo.workflows.brain_images import BrainWriter, finds_brain
from zoo.workflows.case_results import CaseResult, OptionError, RunOptions

SHOWN_LABELS = 3


def predict_scans(model: Path, cases: Mapping[str, Images | Case], options: RunOptions) -> list[CaseResult]:
    """Predicts every scan, and writes the tables that the options ask for.

    Args:
        model: folder of the trained model.
        cases: name -> images, or a case of a data set.
        options: of `zoo predict`.

    Returns:
        A result a case, with `kept`, `seconds` and `volumes_ml`.

    Raises:
        OptionError: an option that does not fit the model or the cases.
    """
    card = card_file.read(model)
    _check_options(card, cases, options)
    tabular, warned = {name: options.tabular for name in cases}, dict[str, list[Warning]]()
    writer = _make_writer(card, options, _find_sources(cases, card, options) | {"warned": warned})
    with susceptibility_tables.convert_maps(
        cases, card, unit=options.unit, magnitude=options.magnitude, warned=warned
    ) as maps:
        with collect_warnings():  # those of a case are in the report, and printed with the others
            report = predict_many(
                model, maps, options.out, settings=options.settings, tabular=tabular, overwrite=options.overwrite,
                writer=writer,
            )  # fmt: skip
        results = [_make_result(name, report, card, options) for name in cases]
        with collect_warnings():  # the tables read again what was warned of before
            _write_tables([result for result in results if result.error is None], maps, card, options)
    return results


def _find_sources(cases: Mapping[str, Images | Case], card: Card, options: RunOptions) -> dict[str, Any]:
    """Returns what decides the results where maps are converted: the unit, and the files before it; else nothing."""
    if not options.unit and options.magnitude is None:
        return {}
    magnitude = {} if options.magnitude is None else {"magnitude": options.magnitude}
    sources = {name: name_inputs(case, card) | magnitude for name, case in cases.items()}
    return {"settings": {"Unit": options.unit or "ppm"}, "sources": sources}


def _check_options(card: Card, cases: Mapping[str, Images | Case], options: RunOptions) -> None:
    if options.lesions and options.settings.probabilities:
        raise OptionError("--lesions needs labels: leave --probabilities out.")
    if options.brain and options.settings.probabilities:
        raise OptionError("--brain cuts along a mask: leave --probabilities out.")
    if options.brain and not finds_brain(card):
        raise OptionError(
            f"{card.name} finds no brain as a whole: leave --brain out. zoo predict unet3d.brain_mask SCAN --brain "
            "writes the scan without its skull."
        )
    if options.table and card.output.kind != "segmentation":
        raise OptionError(f"{card.name} gives {card.output.kind}, no labels: leave --table out.")
    try:
        name_results(cases, options.out, "")
    except ValueError as error:
        raise OptionError(f"--{error}") from error


def _make_writer(card: Card, options: RunOptions, origin: Mapping[str, Any]) -> Writer:
    """Returns the writer of the image alone, or of the image and its lesions; `origin` as `Writer` takes it."""
    if options.lesions is None:
        if options.regions:
            raise OptionError(f"--regions {options.regions} names the places of lesions: add --lesions TABLE.csv.")
        return BrainWriter(card, **origin) if options.brain else Writer(**origin)
    if card.output.kind != "segmentation" or options.lesion_labels == ():
        raise OptionError(f"{card.name} finds no lesions: leave --lesions out, or see --volumes.")
    try:
        regions = options.regions or lesion_tables.default_regions(card)
        return lesion_tables.LesionWriter(regions, options.lesion_labels, **origin)
    except (ValueError, FileNotFoundError) as error:
        raise OptionError(f"--regions: {error}") from error


def _make_result(name: str, report: Report, card: Card, options: RunOptions) -> CaseResult:
    texts = tuple(map(to_line, report.warnings.get(name, [])))
    if name in report.failed:
        return CaseResult.failed(name, report.failed[name], texts)
    path, seconds = report.done.get(name) or report.kept[name], report.seconds.get(name)
    volumes_ml = {} if options.settings.probabilities else measure_volumes_ml(Path(path), card)
    details = {"kept": seconds is None, "seconds": seconds, "volumes_ml": volumes_ml}
    message, files = f"{path}: {_describe(volumes_ml, seconds)}", [path]
    if options.brain:
        files += [str(BrainWriter(card).name_stripped(Path(path)))]
        message += f"; the scan without skull: {files[-1]}"
    return CaseResult(name, tuple(files), message, details=details, warnings=texts)


def _describe(volumes_ml: dict[str, float], seconds: float | None) -> str:
    """Returns volumes and time in words; many labels are summed, `--json` has each."""
    if len(volumes_ml) > SHOWN_LABELS:
        volumes_ml = {f"{len(volumes_ml)} labels,": sum(volumes_ml.values())}
    words = [f"{name} {volume:,.1f} ml" for name, volume in volumes_ml.items()]
    words += ["was there already (--overwrite replaces it)"] if seconds is None else [f"{seconds:.1f} s"]
    return ", ".join(words)


def measure_volumes_ml(path: Path, card: Card) -> dict[str, float]:
    """Returns the volume in ml of each label other than 0 in a label map; nothing where the model gives no labels."""
    if card.output.kind != "segmentation":
        return {}
    rows = volumes(nibabel.nifti1.load(path), card)
    return {str(row["structure"]): float(row["volume_ml"]) for row in rows}


def _write_tables(
    results: Sequence[CaseResult], cases: Mapping[str, Images | Case], card: Card, options: RunOptions
) -> None:
    """Writes volumes beside each result, and one table of all structures and of all lesions."""
    paths = {result.case: Path(result.files[0]) for result in results}
    if options.lesions:
        tables = {case: lesion_tables.read_lesions(lesion_tables.table_of(path)) for case, path in paths.items()}
        lesion_tables.write_lesions(options.lesions, tables)
    if options.settings.probabilities:
        return
    if options.volumes:
        for path in paths.values():
            write_volumes(path.with_name(f"{stem(path)}_volumes.csv"), nibabel.nifti1.load(path), card)
    if options.table:
        rows = [(case, susceptibility_tables.measure_case(path, cases[case], card)) for case, path in paths.items()]
        susceptibility_tables.write_table(options.table, rows)
