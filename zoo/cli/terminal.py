"""What every verb of the command line shares: printing, loading Keras quietly, and how a failure ends."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from zoo import errors
from zoo.hub import trained_models

UsageError: Any = typer.BadParameter.__base__  # click's, wherever typer keeps it
FAILURES = (OSError, ValueError, TypeError, ImportError, ArithmeticError, MemoryError, RuntimeError)
WIDTH = 80  # of help and tables where no terminal says otherwise

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu, gpu, gpu:1 ...; auto takes a GPU if there is one.")]


def complete_trained(incomplete: str) -> list[str]:
    """Names of trained models that begin so, for the shell."""
    return [name for name in trained_models.list_models(f"{incomplete}*") if "." in name]


def complete_any(incomplete: str) -> list[str]:
    """Names of trained models and networks that begin so, for the shell."""
    return trained_models.list_models(f"{incomplete}*")


Model = Annotated[str, typer.Argument(help="A trained model: its name or its folder.", autocompletion=complete_trained)]


class Verbs(TyperGroup):
    """The verbs of a command; every failure ends in one line on stderr and the right exit code.

    `ZOO_DEBUG=1` shows the whole traceback of work that failed.
    """

    def main(self, *args: Any, **settings: Any) -> Any:
        """Runs a command line and exits: 0, 1 for work that failed, 2 for bad arguments."""
        try:
            code = super().main(*args, **{**settings, "standalone_mode": False})
        except UsageError as error:
            where = error.ctx.command_path if error.ctx else "zoo"
            code = _say(f"{where}: {error.format_message()} See '{where} --help'.", 2)
        except FAILURES as error:
            if os.environ.get("ZOO_DEBUG"):
                raise
            code = _say(f"zoo: {error or type(error).__name__}", 1)
        sys.exit(code or 0)


def tell(plain: Any, shown: Any, as_json: bool) -> None:
    """Prints a result on stdout: `plain` as JSON where a script reads it, else `shown` (text or a rich table)."""
    if as_json:
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    elif not isinstance(shown, str):
        console = Console(highlight=False)
        with console.capture() as captured:
            console.print(shown, width=min(console.width, 100) if console.is_terminal else WIDTH)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    elif shown:
        print(shown)


def end(faults: Iterable[str]) -> None:
    """Exits with 1 after one line a fault on stderr; does nothing where there is none."""
    codes = [_say(f"zoo: {fault}", 1) for fault in faults]
    if codes:
        raise typer.Exit(1)


@contextlib.contextmanager
def framework(device: str = "auto") -> Iterator[None]:
    """Loads Keras and its backend without their chatter, and computes on a device.

    Args:
        device: "auto", or the name of a device: "cpu", "gpu", "gpu:1".

    Raises:
        ImportError: there is no TensorFlow.
        UsageError: there is no such device.
    """
    with _quiet():
        try:
            import keras

            keras.ops.zeros(())
        except ModuleNotFoundError as error:
            raise ImportError(f"{error}. Install it: pip install 'zoo3d[cpu]' (or 'zoo3d[gpu]').") from error
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
    """Holds back what TensorFlow's C++ writes while it loads; shown after all where loading fails.

    `TF_CPP_MIN_LOG_LEVEL` alone does not silence the first lines. Who sets it wants to see them.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def _say(line: str, code: int) -> int:
    """One line on stderr, whatever the message was made of."""
    print(" ".join(line.split()), file=sys.stderr)
    return code


def find_model(model: str) -> Path:
    """The folder of a trained model.

    Raises:
        UsageError: there is no such model, or it cannot be fetched for want of an address.
    """
    try:
        return trained_models.find(model)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
