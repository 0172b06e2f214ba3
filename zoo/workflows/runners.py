"""Runs a trained model on cases for `zoo predict`: one runner for each kind of output that a card can have.

Every runner takes the model's folder, cases by name and the options, and returns a `CaseResult` for each case.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.hub import card_file
from zoo.hub.card import Card
from zoo.inference.inputs import Images, select_images
from zoo.workflows.case_results import CaseResult, OptionError, RunOptions
from zoo.workflows.scan_runner import predict_scans

CODES_MODEL = "siamese.epilepsy_lesions"
NO_PICTURE = "; no picture: it needs matplotlib (pip install 'zoo3d[report]')"
Runner = Callable[[Path, Mapping[str, Any], RunOptions], list[CaseResult]]


def choose_runner(card: Card, options: RunOptions) -> Runner:
    """Returns the runner for a card's output; a normative model needs codes whatever the card says."""
    return find_lesions if options.normative else RUNNERS.get(card.output.kind, predict_scans)


def locate_recordings(model: Path, recordings: Mapping[str, Path], options: RunOptions) -> list[CaseResult]:
    """Locates the sources of EEG files; each gives a table and a posterior in the folder `out`.

    Args:
        model: folder of the trained model.
        recordings: name -> file that MNE reads.
        options: of `zoo predict`.

    Returns:
        A result a file, with `sources`, `repairs` and `text`.
    """
    from zoo.source_imaging import locate

    results = []
    for name, path in recordings.items():
        try:
            located = locate.locate_sources(path, model=model)
            files = tuple(str(written) for written in locate.write(located, options.out, name))
        except Exception as error:  # whatever it is, the other recordings can still be done
            results.append(CaseResult.failed(path.name, error))
            continue
        places = "; ".join("({:.0f}, {:.0f}, {:.0f})".format(*source.mni_mm) for source in located.sources)
        fit = f"{located.explained:.0%} explained at {located.time_s[0]:g} s."
        message = f"{files[0]}: {len(located.sources)} sources at {places} mm MNI, {' '.join([fit, *located.repairs])}"
        details = {"sources": located.table(), "repairs": list(located.repairs), "text": message}
        results.append(CaseResult(path.name, files, message, details=details))
    return results


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
    finder = lesion_map.Finder(model, fitted=options.normative)
    results = []
    for name, case in cases.items():
        start = time.perf_counter()
        try:
            images = select_images(case, card) if isinstance(case, Case) else case
            outliers = finder(images, tell=options.show_stage)
            files = tuple(str(path) for path in outliers.write(options.out, name))
        except Exception as error:  # whatever it is, the other cases can still be done
            results.append(CaseResult.failed(name, error))
            continue
        seconds = round(time.perf_counter() - start, 1)
        picture = "" if files[-1].endswith(".png") else NO_PICTURE
        message = f"{files[0]}: {outliers.message}, {seconds} s{picture}"
        details = {"clusters": len(outliers.clusters), "share_out": round(outliers.out, 4)}
        results.append(CaseResult(name, files, message, details=details | {"seconds": seconds, "text": message}))
    return results


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
