"""Runs a trained model on cases for `zoo predict`: one runner for each kind of output that a card can have.

Every runner takes the model's folder, cases by name and the options, and returns a `CaseResult` for each case.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.hub import card_file, result_record
from zoo.hub.card import Card
from zoo.hub.result_record import Origin
from zoo.inference.cohort import name_inputs
from zoo.inference.inputs import Images, select_images
from zoo.workflows.case_results import CaseResult, Made, OptionError, RunOptions, Steps, keep_or_make
from zoo.workflows.recording_runner import locate_recordings
from zoo.workflows.scan_runner import predict_scans

CODES_MODEL = "siamese.epilepsy_lesions"
NO_PICTURE = "; no picture: it needs matplotlib (pip install 'zoo3d[report]')"
Runner = Callable[[Path, Mapping[str, Any], RunOptions], list[CaseResult]]


def choose_runner(card: Card, options: RunOptions) -> Runner:
    """Returns the runner for a card's output; a normative model needs codes whatever the card says."""
    return find_lesions if options.normative else RUNNERS.get(card.output.kind, predict_scans)


def find_lesions(model: Path, cases: Mapping[str, Images | Case], options: RunOptions) -> list[CaseResult]:
    """Maps outliers against controls with a model of codes.

    Args:
        model: folder of the trained model.
        cases: name -> images, or a case of a data set.
        options: of `zoo predict`.

    Returns:
        A result a case, with `clusters`, `share_out`, `seconds` and `text`.

    Raises:
        OptionError: the model gives no codes, or there is no such normative model.
    """
    from zoo.normative import lesion_map

    card = read_codes_card(model)
    if options.normative is not None and not options.normative.is_file():
        raise OptionError(
            f"There is no normative model {str(options.normative)!r}. Make one with zoo fit-normative FOLDER."
        )
    finder, results = lesion_map.Finder(model, fitted=options.normative), []
    weights, settings = result_record.describe_model(card), lesion_map.describe_settings(model, options.normative)
    for name, case in cases.items():
        compute = partial(_map_outliers, finder, case, card, options.show_stage)
        steps = Steps(compute, partial(_write_lesions, out=options.out, name=name))
        origin = Origin(weights, settings, name_inputs(case, card))
        results.append(keep_or_make(name, options.out / f"{name}_z.nii.gz", origin, options, steps))
    return results


def _map_outliers(finder: Any, case: Images | Case, card: Card, show_stage: Callable[[str], None]) -> Any:
    return finder(select_images(case, card) if isinstance(case, Case) else case, tell=show_stage)


def _write_lesions(outliers: Any, seconds: float, out: Path, name: str) -> Made:
    """Writes the map, clusters and picture of a person, and words them."""
    files = tuple(str(path) for path in outliers.write(out, name))
    picture = "" if files[-1].endswith(".png") else NO_PICTURE
    message = f"{files[0]}: {outliers.message}, {seconds} s{picture}"
    details = {"clusters": len(outliers.clusters), "share_out": round(outliers.out, 4)}
    return Made(files, message, details | {"seconds": seconds, "text": message})


def read_codes_card(model: Path) -> Card:
    """Reads the card of a model of codes.

    Raises:
        OptionError: the model gives something else.
    """
    card = card_file.read(model)
    if card.output.kind != "codes":
        raise OptionError(f"{card.name} gives {card.output.kind}, not codes. Outliers are found by {CODES_MODEL}.")
    return card


RUNNERS: dict[str, Runner] = {
    "segmentation": predict_scans,
    "sources": locate_recordings,
    "codes": find_lesions,
}
