"""Shared by every verb: options, panels of the help, printing, loading Keras quietly, and exit codes."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from zoo import errors, registry
from zoo.hub import trained_models

UsageError: Any = typer.BadParameter.__base__  # click's, wherever typer keeps it
FAILURES = (Exception,)  # a file from anywhere meets parsers that raise anything
INTERRUPTED = 130  # as shells count it: 128 and the signal
_FATAL = "3"  # the level at which TensorFlow's C++ writes what ends the process, and no more
WIDTH = 80  # of help and tables where no terminal says otherwise
GENERAL, RUNTIME = "General", "Runtime"  # panels that many verbs have; others stand beside their options

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Mirror = Annotated[bool, typer.Option("--mirror", help="Average over left/right mirror images.")]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="cpu, gpu, gpu:1 ...; auto takes a GPU if there is one.", rich_help_panel=RUNTIME
    ),
]
Tabular = Annotated[
    str, typer.Option(metavar="NAME=VALUE,...", help="Values beside the images, by the names on the card.")
]


def complete_trained(incomplete: str) -> list[str]:
    """Returns names of trained models that begin so, for the shell."""
    return [name for name in trained_models.list_models(f"{incomplete}*") if "." in name]


def complete_any(incomplete: str) -> list[str]:
    """Returns names of trained models and networks that begin so, for the shell."""
    return trained_models.list_models(f"{incomplete}*")


Model = Annotated[str, typer.Argument(help="A trained model: its name or its folder.", autocompletion=complete_trained)]


class Verb(TyperCommand):
    """A verb whose help lists its options in the panels that they name, plain options first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, general options, then each panel."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], GENERAL: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else GENERAL
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        _write_panels(formatter, panels)


class Verbs(TyperGroup):
    """The verbs of the command in panels; every failure ends in one line on stderr and the right exit code.

    `ZOO_DEBUG=1` shows the whole traceback of work that failed.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes each panel of verbs with their first lines."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            if verb is not None and not verb.hidden:
                panel = getattr(verb, "rich_help_panel", None) or "Commands"
                panels.setdefault(str(panel), []).append((name, verb.get_short_help_str(WIDTH)))
        _write_panels(formatter, panels)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Runs a command line and exits: 0, 1 for work that failed, 2 for bad arguments, 130 where it was stopped."""
        try:
            with errors.warnings_in_lines():
                code = super().main(*args, **{**settings, "standalone_mode": False})
        except UsageError as error:
            where = error.ctx.command_path if error.ctx else "zoo"
            code = _print_error(f"{where}: {error.format_message()} See '{where} --help'.", 2)
        except typer.Abort:
            code = _print_error("zoo: stopped.", INTERRUPTED)
        except FAILURES as error:
            if os.environ.get("ZOO_DEBUG"):
                raise
            code = _print_error(f"zoo: {errors.to_line(error)}", 1)
        sys.exit(code or 0)


def _write_panels(formatter: Any, panels: dict[str, list[tuple[str, str]]]) -> None:
    width = max((len(term) for rows in panels.values() for term, _ in rows), default=0)
    for title, rows in panels.items():
        if rows:
            with formatter.section(title):
                # The longest term pads the first row, so that the columns of all panels are aligned.
                formatter.write_dl([(term.ljust(width), text) for term, text in rows], col_max=width)


def tell(plain: Any, shown: Any, as_json: bool) -> None:
    """Prints a result on stdout: `plain` as JSON where a script reads it, else `shown` (text or a rich table)."""
    if as_json:
        print(errors.printable(json.dumps(plain, indent=2, ensure_ascii=False)))
    elif not isinstance(shown, str):
        console = Console(highlight=False, markup=False, emoji=False)  # cards are text: "[/b]" in one is no command
        with console.capture() as captured:
            console.print(shown, width=min(console.width, 100) if console.is_terminal else WIDTH)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    elif shown:
        print(errors.printable(shown))


def warn(texts: Iterable[str]) -> None:
    """Prints one line a warning on stderr."""
    for text in texts:
        _print_error(f"zoo: warning: {text}", 0)


def end(faults: Iterable[str]) -> None:
    """Exits with 1 after one line a fault on stderr; does nothing where there is none."""
    codes = [_print_error(f"zoo: {fault}", 1) for fault in faults]
    if codes:
        raise typer.Exit(1)


@contextlib.contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of some kinds into errors of use, which end with 2.

    Raises:
        UsageError: one of them was raised; the text stays.
    """
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from error


def show_stage(stage: str) -> None:
    """Prints the name of a stage on stderr, where that is a terminal."""
    if sys.stderr.isatty():
        print(stage, file=sys.stderr)


@contextlib.contextmanager
def framework(device: str = "auto") -> Iterator[None]:
    """Loads Keras and its backend without their output, and computes on a device.

    Args:
        device: "auto", or the name of a device: "cpu", "gpu", "gpu:1".

    Raises:
        ImportError: there is no TensorFlow.
        ValueError: Keras is set to a backend or layout that zoo does not run on.
        UsageError: there is no such device.
    """
    with _quiet():
        registry.require_backend()
        import keras

        keras.ops.zeros(())
        devices = keras.distribution.list_devices()
    if device == "auto":
        yield
        return
    name = device if ":" in device else f"{device}:0"
    if name not in devices:
        raise UsageError(str(errors.unknown_choice("device", device, ["auto", *devices])))
    with keras.device(name):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TensorFlow writes while it loads, and has it write no more; shows it where a library is broken.

    `TF_CPP_MIN_LOG_LEVEL` alone does not silence the first lines. `ZOO_DEBUG=1` shows all.
    """
    if os.environ.get("ZOO_DEBUG"):
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = _FATAL
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (ValueError, RuntimeError, ModuleNotFoundError):
            raise  # which say what is wrong
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def _print_error(line: str, code: int) -> int:
    """Prints one line on stderr, whatever the message was made of, and returns the exit code."""
    print(errors.to_line(line), file=sys.stderr)
    return code


def find_model(model: str) -> Path:
    """Returns the folder of a trained model.

    Raises:
        UsageError: there is no such model, or no address to fetch it from.
    """
    with usage_errors(ValueError, FileNotFoundError):
        return trained_models.find(model)
