"""`zoo predict`: picks the runner for a model's output, and prints what becomes of each case."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import tasks
from zoo.cli.export_command import choose_network
from zoo.cli.prediction_options import (
    Brain,
    LesionTable,
    Magnitude,
    Normative,
    Out,
    Overwrite,
    Probabilities,
    Recursive,
    Regions,
    Runtime,
    Scans,
    StructureTable,
    Unit,
    Volumes,
)
from zoo.cli.recording_options import Condition, Count, Forward, Method, NoiseCov, Report, Time, Window, parse_choices
from zoo.cli.scan_arguments import parse_cases, parse_tabular
from zoo.cli.terminal import (
    Device,
    Json,
    Mirror,
    Model,
    Tabular,
    end,
    find_model,
    framework,
    show_stage,
    tell,
    usage_errors,
    warn,
)
from zoo.hub import card_file
from zoo.hub.card import Card

if TYPE_CHECKING:
    from zoo.workflows.case_results import CaseResult


def predict(  # noqa: PLR0913 - the choices of a command, each an option
    model: Model,
    scans: Scans,
    out: Out = Path(),
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    probabilities: Probabilities = False,
    brain: Brain = False,
    mirror: Mirror = False,
    tabular: Tabular = "",
    volumes: Volumes = False,
    table: StructureTable = None,
    lesions: LesionTable = None,
    regions: Regions = "",
    normative: Normative = None,
    unit: Unit = "",
    magnitude: Magnitude = None,
    time: Time = None,
    window: Window = "",
    condition: Condition = "",
    count: Count = "",
    forward: Forward = None,
    noise_cov: NoiseCov = None,
    method: Method = "auto",
    report: Report = False,
    runtime: Runtime = "keras",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a trained model on scans; results lie on their grids.

    A result is called SCAN_TAG.nii.gz; SCAN_TAG.json says what made it, and only one
    made alike is kept. A model that locates sources takes EEG files of
    MNE (-ave.fif, -epo.fif, .set, .vhdr, .edf, raw), each condition by itself, and writes
    NAME_sources.csv, NAME_posterior.nii.gz and NAME_courses.csv.
    A model of codes writes NAME_z.nii.gz, clusters as NIfTI and CSV, and a picture.
    What cannot be used is reported, the rest is finished, and the exit code is then 1.
    """
    folder = find_model(model)
    card = card_file.read(folder)
    cases, values = parse_cases(scans, card, recursive=recursive), parse_tabular(tabular, card)
    choices = parse_choices(
        card,
        time=time,
        window=window,
        condition=condition,
        count=count,
        forward=forward,
        noise_cov=noise_cov,
        method=method,
        report=report,
    )
    with framework(device):
        from zoo.inference.settings import Settings
        from zoo.workflows.case_results import OptionError, RunOptions
        from zoo.workflows.runners import choose_runner

        network = choose_network(runtime, folder)
        options = RunOptions(
            out=out,
            settings=Settings(probabilities=probabilities, mirror=mirror, **network),
            overwrite=overwrite,
            tabular=values,
            volumes=volumes,
            brain=brain,
            table=table,
            lesions=lesions,
            lesion_labels=find_lesion_labels(card) if lesions else None,
            regions=regions,
            unit=unit,
            magnitude=magnitude,
            normative=normative,
            show_stage=show_stage,
        )
        with usage_errors(OptionError):
            runner = choose_runner(card, options)
            results = runner(folder, cases, options, *([choices] if choices else []))
    print_results(results, as_json=as_json)


def find_lesion_labels(card: Card) -> tuple[str, ...] | None:
    """Returns the labels of a card that its task calls lesions; None for all, () where the task has no lesions."""
    if card.task not in tasks.names():
        return None
    known = tasks.task(card.task).output.lesions
    names = [label.name for label in card.output.labels.values()]
    return (tuple(name for name in known if name in names) or None) if known else ()


def print_results(results: "list[CaseResult]", *, as_json: bool) -> None:
    """Prints a line or a JSON object a case; on stderr its warnings, and errors, after which it exits with 1."""
    plain: list[dict[str, Any]] = [result.as_dict() for result in results]
    tell(plain, "\n".join(result.message for result in results if result.error is None), as_json)
    warn(f"{result.case}: {text}" for result in results for text in result.warnings)
    end(f"{result.case}: {result.error}" for result in results if result.error is not None)
