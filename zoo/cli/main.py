"""The command `zoo`: one function a verb, listed in `VERBS`.

A verb's docstring is its help; it prints by `tell` and raises what zoo raises. `zoo.cli.terminal.Verbs` turns an
exception into one line and an exit code: 1 for work that failed, 2 for bad arguments. What needs Keras is imported
inside `framework()`, so that help and listings stay quick.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

import zoo
from zoo import allocator
from zoo.cli import (
    bids_command,
    export_command,
    model_commands,
    normative_command,
    predict_command,
    task_commands,
    whatif_command,
)
from zoo.cli.terminal import WIDTH, Verb, Verbs

MODELS, PREDICTION, TRAINING = "Models", "Prediction", "Data and training"


class Registration(NamedTuple):
    """How a function becomes a verb: its name, panel and, where it parses arguments of its own, class and context."""

    name: str
    panel: str
    function: Callable[..., None]
    cls: type[Verb] = Verb
    context: dict[str, Any] | None = None


VERBS = (
    Registration("list", MODELS, model_commands.list_models),
    Registration("info", MODELS, model_commands.info),
    Registration("verify", MODELS, model_commands.verify),
    Registration("demo", MODELS, model_commands.demo),
    Registration("export", MODELS, export_command.export),
    Registration("predict", PREDICTION, predict_command.predict),
    Registration("whatif", PREDICTION, whatif_command.whatif, context=whatif_command.CONTEXT),
    Registration("bids", PREDICTION, bids_command.bids, bids_command.BidsCommand, bids_command.CONTEXT),
    Registration("fit-normative", PREDICTION, normative_command.fit_normative),
    Registration("check", TRAINING, task_commands.check),
    Registration("anatomies", TRAINING, task_commands.anatomies),
    Registration("train", TRAINING, task_commands.train),
    Registration("evaluate", TRAINING, task_commands.evaluate),
)

app = typer.Typer(
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
for verb in VERBS:
    register = app.command(verb.name, cls=verb.cls, context_settings=verb.context, rich_help_panel=verb.panel)
    register(verb.function)


def main() -> NoReturn:
    """Runs the command line; never returns."""
    if sys.argv[1:2] == ["train"] and len(sys.argv) > 2:
        allocator.use_tcmalloc()
    app()
    raise SystemExit(0)


@app.callback(invoke_without_command=True)
def _zoo(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """3D networks for neuroimaging with verified weights.

    Research use, not for diagnosis. zoo --install-completion sets up the shell.
    """
    if version:
        print(zoo.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


if __name__ == "__main__":
    main()
