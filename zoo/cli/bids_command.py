"""`zoo bids`: runs a trained model over a BIDS data set, by the convention of BIDS-Apps.

Source: Gorgolewski et al., BIDS apps, PLOS Computational Biology 2017, 10.1371/journal.pcbi.1005209.
"""

import contextlib
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zoo
from zoo import errors
from zoo.cli.terminal import (
    RUNTIME,
    Device,
    Json,
    Mirror,
    UsageError,
    Verb,
    complete_trained,
    end,
    find_model,
    framework,
    tell,
    usage_errors,
    warn,
)
from zoo.hub import card as cards
from zoo.hub import card_file

if TYPE_CHECKING:
    from zoo.workflows.bids_app.plan import PlannedCase
    from zoo.workflows.bids_app.results import CohortRecipe

LEVEL = "participant"
SELECTION = "Selection"
MANY = ("--participant-label", "--session-label", "--pattern")
CONTEXT = {"token_normalize_func": lambda word: word.replace("_", "-")}  # BIDS-Apps write --participant_label, too
Labels = list[str]


class BidsCommand(Verb):
    """Takes several values behind one option, as BIDS-Apps do: `participant --participant-label 01 02`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the option for each of its values; only after the level, where no argument can follow."""
        start = args.index(LEVEL) if LEVEL in args else len(args)
        words, option = args[:start], ""
        for word in args[start:]:
            if word.startswith("-"):
                option = word.replace("_", "-") if word.replace("_", "-") in MANY else ""
                words += [] if option else [word]
            else:
                words += [option, word] if option else [word]
        return super().parse_args(ctx, words)


def bids(  # noqa: PLR0913 - the choices of a command, each an option
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="A BIDS data set.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="For the derivatives.")],
    level: Annotated[str, typer.Argument(metavar="participant", help="The level of analysis; there is one.")],
    model: Annotated[
        str,
        typer.Option(metavar="NAME", autocompletion=complete_trained, help="A trained model: its name or its folder."),
    ],
    participant_label: Annotated[
        Labels, typer.Option(metavar="LABEL", help="One or several; all if left out.", rich_help_panel=SELECTION)
    ] = [],  # noqa: B006
    session_label: Annotated[
        Labels, typer.Option(metavar="LABEL", help="One or several; all if left out.", rich_help_panel=SELECTION)
    ] = [],  # noqa: B006
    pattern: Annotated[
        Labels,
        typer.Option(
            metavar="CHANNEL=NAME", help="Which images: T1w=acq-high_T1w, image=FLAIR.", rich_help_panel=SELECTION
        ),
    ] = [],  # noqa: B006
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="Every N-th participant from the K-th on.", rich_help_panel=RUNTIME)
    ] = "1/1",
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes, or workers of a cluster.", rich_help_panel=RUNTIME)
    ] = 1,
    address: Annotated[
        str, typer.Option(metavar="RAY", help="Of a Ray cluster; local starts one here.", rich_help_panel=RUNTIME)
    ] = "",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probseg, not labels.")] = False,
    mirror: Mirror = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what is there already.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a trained model over a BIDS data set: a BIDS-App.

    Writes BIDS derivatives: masks or label maps with JSON files, tables of
    volumes, and a log. A run that was stopped goes on where it was when the
    same command is given again. A case that fails is reported, the rest is
    finished, and the exit code is then 1.
    """
    from zoo.workflows.bids_app import run
    from zoo.workflows.bids_app.derivatives import LOGS, Derivatives
    from zoo.workflows.bids_app.plan import make_description

    if level != LEVEL:
        raise UsageError(str(errors.unknown_choice("level of analysis", level, [LEVEL])))
    recipe = _make_recipe(model, out_dir, probabilities=probabilities, mirror=mirror, device=device)
    derivatives = Derivatives(out_dir, bids_dir, recipe.card, zoo.__version__)
    part = _parse_shard(shard)
    with usage_errors(ValueError):
        derivatives.check()
        cases, failed = _plan_cases(bids_dir, recipe.card, (participant_label, session_label), pattern, part)
        finished = [] if overwrite else run.find_finished(cases, recipe)
    derivatives.begin(recipe.structures if recipe.kind == "dseg" else [])
    log = out_dir / LOGS / f"desc-{make_description(recipe.card.name)}_shard-{part[0]}of{part[1]}.tsv"
    remaining = [case for case in cases if case not in finished]
    with framework(device) if remaining and jobs == 1 and not address else contextlib.nullcontext():
        outcomes = run.run(remaining, recipe, log=log, kept=finished, failed=failed, jobs=jobs, address=address)
    derivatives.carry_participants()
    counts = Counter(outcome.status for outcome in outcomes)
    message = f"{counts['done']} done, {counts['kept']} kept, {counts['failed']} failed: {log}"
    tell([asdict(outcome) for outcome in outcomes], message, as_json)
    warn(f"{outcome.case}: {text}" for outcome in outcomes for text in outcome.warnings)
    end(f"{outcome.case}: {outcome.error}" for outcome in outcomes if outcome.error)


def _make_recipe(model: str, out: Path, *, probabilities: bool, mirror: bool, device: str) -> "CohortRecipe":
    from zoo.workflows.bids_app.results import CohortRecipe

    folder = find_model(model)
    card = card_file.read(folder)
    if card.output.kind != "segmentation":
        raise UsageError(f"{card.name} gives {card.output.kind}, and zoo bids writes segmentations. See zoo predict.")
    return CohortRecipe(
        str(folder.resolve()),
        str(out),
        probabilities=probabilities,
        mirror=mirror,
        device="" if device == "auto" else device,
    )


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None:
        raise UsageError(f"--shard is K/N, as 2/8; got {text!r}.")
    return int(match[1]), int(match[2])


def _plan_cases(
    root: Path,
    card: cards.Card,
    labels: tuple[Labels, Labels],
    patterns: Labels,
    shard: tuple[int, int],
) -> tuple[list["PlannedCase"], dict[str, str]]:
    from zoo.datasets.readers import bids as reader
    from zoo.workflows.bids_app import plan

    if not root.is_dir():
        raise UsageError(f"There is no folder {str(root)!r}.")
    if not reader.fits(root):
        raise UsageError(f"{root} is no BIDS data set: {reader.FILE} and sub-*/anat/ were looked for. See zoo predict.")
    survey = reader.survey(root)
    channel_patterns = dict(text.partition("=")[::2] for text in patterns)
    for name, pattern in channel_patterns.items():
        if not pattern:
            raise UsageError(f"--pattern is CHANNEL=NAME, as T1w=acq-high_T1w; got {name!r}.")
    sessions = plan.choose(
        survey, participants=_split_labels(labels[0]), sessions=_split_labels(labels[1]), shard=shard
    )
    return plan.plan(survey, sessions, card, plan.choose_patterns(survey, card, channel_patterns))


def _split_labels(labels: Labels) -> list[str]:
    """Splits labels, also where one argument holds several: "01 02", "01,02"."""
    return [part for label in labels for part in re.split(r"[\s,]+", label) if part]
