"""Words errors alike, and collects the warnings of a case."""

import contextlib
import difflib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Control characters, and marks that turn the direction of writing or end a line; tab, line feed and return are plain.
_STEERING = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_PACKAGE = Path(__file__).parent
_SHOWN: dict[Any, Any] = {}  # what Python's filters remember of the warnings of others


def unknown_choice(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """Words the error for a bad choice: what was received, the nearest match, and every choice.

    Args:
        kind: what was chosen, a noun ("model", "activation").
        value: what was received.
        choices: every valid choice.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> print(unknown_choice("precision", "float23", ["auto", "bfloat16", "float32"]))
        There is no precision 'float23'. Did you mean 'float32'? Choose from: auto, bfloat16, float32.
    """
    names = sorted(choices)
    completions = [name for name in names if len(str(value)) > 2 and name.startswith(str(value))]
    near = completions if len(completions) == 1 else difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"There is no {kind} {value!r}.{hint} Choose from: {', '.join(names)}.")


def to_line(message: BaseException | str) -> str:
    r"""Returns an error or warning as one line that a terminal may show.

    The type of an error stands first where its text alone says little: errors of other libraries, and those of Python
    that name a key or nothing.

    Example:
        >>> to_line(ValueError("two\n  lines")), to_line(MemoryError()), to_line(KeyError("shape"))
        ('two lines', 'MemoryError', "KeyError: 'shape'")
    """
    text = " ".join(printable(str(message)).split())
    if isinstance(message, str) or (text and _explains_itself(message)):
        return text
    kind = type(message).__name__.lstrip("_")
    return f"{kind}: {text}" if text else kind


def _explains_itself(error: BaseException) -> bool:
    if type(error).__module__.partition(".")[0] not in ("builtins", "zoo"):
        return False
    return not isinstance(error, LookupError | AttributeError | AssertionError | NameError | StopIteration)


def printable(text: str) -> str:
    r"""Returns a text without what steers a terminal: such characters are written out, line ends and tabs stay.

    Args:
        text: of a file or its name, from anywhere.

    Example:
        >>> printable("red \x1b[31mname")
        'red \\u001b[31mname'
    """
    return re.sub(_STEERING, lambda match: f"\\u{ord(match[0]):04x}", text)


@contextlib.contextmanager
def collect_warnings(collected: list[Warning] | None = None) -> Iterator[list[Warning]]:
    """Collects zoo's own warnings, each text once, also where Python has shown it before; those of others pass.

    Where contexts are nested, the inner one has them. Python's filters are those of the process: one thread at a time.

    Args:
        collected: a list to add to; None begins one.

    Yields:
        The list, to which warnings are added when the context ends, also by an error.

    Example:
        >>> from zoo.volumes.header import GeometryWarning
        >>> with collect_warnings() as collected:
        ...     warnings.warn("left and right are in doubt", GeometryWarning, stacklevel=1)
        >>> [str(warning) for warning in collected]
        ['left and right are in doubt']
    """
    collected = [] if collected is None else collected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield collected
        finally:
            own = [*collected, *(warning.message for warning in caught if is_own(warning.category, warning.filename))]
            collected[:] = {str(message): message for message in own if isinstance(message, Warning)}.values()
    for warning in caught:
        if not is_own(warning.category, warning.filename):
            message, place = warning.message, (warning.filename, warning.lineno)
            warnings.warn_explicit(message, warning.category, *place, registry=_SHOWN, source=warning.source)


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Shows zoo's own warnings as one line on stderr each, without the line of code; those of others as Python does.

    Example:
        >>> with warnings_in_lines():
        ...     pass
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if is_own(category, filename):
                print(f"zoo: warning: {to_line(message)}", file=sys.stderr)
            else:
                show(message, category, filename, lineno, *rest)

        warnings.showwarning = show_line  # type: ignore[assignment]
        yield


def is_own(category: type[Warning], filename: str) -> bool:
    """Returns whether a warning is of a class of zoo, or a plain one from its code."""
    if category.__module__.partition(".")[0] == "zoo":
        return True
    return category is UserWarning and Path(filename).is_relative_to(_PACKAGE)
