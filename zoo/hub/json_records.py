"""Turns dataclasses into plain JSON and back; each fault is named by its place in the record."""

import dataclasses
import math
import re
import types
import typing
from typing import Any

from zoo.errors import printable, unknown_choice

_MOST = 2**63 - 1  # what other programs can read as a whole number


def to_plain(value: Any) -> Any:
    """Returns dataclasses, tuples and integer keys as JSON has them; other values stay, for `decode` to name.

    Example:
        >>> to_plain({1: (2, 3)})
        {'1': [2, 3]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def decode(kind: Any, value: Any, faults: list[str], where: str = "") -> Any:
    """Turns plain JSON into `kind`, and adds a line to `faults` for each place where it does not fit.

    Args:
        kind: a dataclass, `tuple[X, ...]`, `tuple[X, X]`, `dict[str, X]`, `dict[int, X]`, `X | None`, a
            scalar, `Any`.
        value: what `json.loads` gave.
        faults: receives one line for each fault.
        where: the place in the record, as in "input.patch".

    Returns:
        The record; to be used only where no fault was added.

    Example:
        >>> faults = []
        >>> decode(tuple[int, ...], [16, "24"], faults, "patch"), faults
        ((16, '24'), ["patch[1] must be int, got '24'"])
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value, where, faults)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, where, faults)
    if origin is dict:
        return _decode_dict(typing.get_args(kind), value, where, faults)
    return _decode_scalar(kind, value, where, faults)


def _decode_scalar(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if kind is Any:
        return _decode_any(value, where, faults)
    good = isinstance(value, (int, float) if kind is float else kind)
    if not good or (isinstance(value, bool) and kind is not bool):
        faults.append(f"{where} must be {kind.__name__}, got {value!r}")
    else:
        _check_plain(value, where, faults)
    return value


def _check_plain(value: Any, where: str, faults: list[str]) -> None:
    """Refuses what a terminal would obey and what no float holds."""
    if isinstance(value, str) and printable(value) != value:
        faults.append(f"{where} must be plain text without control characters, got {value!r}")
    if isinstance(value, int) and abs(value) > _MOST:
        faults.append(f"{where} must be a number of 64 bits, got one of {value.bit_length()}")


def _decode_any(value: Any, where: str, faults: list[str]) -> Any:
    """Checks a value of any JSON kind; lists become tuples, so that a card compares equal after a round trip."""
    if isinstance(value, list):
        return tuple(_decode_any(item, where, faults) for item in value)
    if isinstance(value, dict):
        return {key: _decode_any(item, _step_into(where, key, faults), faults) for key, item in value.items()}
    _check_plain(value, where, faults)
    if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        faults.append(f"{where} must be text, a finite number, true, false, null or a list of these, got {value!r}")
    return value


def _decode_object(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{where or 'the record'} must be an object of named fields, got {value!r}")
        return None
    dot = f"{where}." if where else ""
    hints = typing.get_type_hints(kind)
    needed = {item.name for item in dataclasses.fields(kind) if _is_required(item)}
    before = len(faults)
    faults += [f"{dot}{name} is missing" for name in hints if name in needed and name not in value]
    faults += [
        f"{dot}{name}: {str(unknown_choice('field', name, hints)).rstrip('.')}" for name in value if name not in hints
    ]
    content = {n: decode(hints[n], item, faults, f"{dot}{n}") for n, item in value.items() if n in hints}
    return kind(**content) if len(faults) == before else None


def _is_required(item: dataclasses.Field) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _decode_tuple(kinds: tuple, value: Any, where: str, faults: list[str]) -> Any:
    length = None if kinds[-1] is Ellipsis else len(kinds)
    if not isinstance(value, list) or (length and len(value) != length):
        faults.append(f"{where} must be a list{f' of {length}' if length else ''}, got {value!r}")
        return None
    return tuple(decode(kinds[0], item, faults, f"{where}[{i}]") for i, item in enumerate(value))


def _decode_dict(kinds: tuple, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{where} must be an object, got {value!r}")
        return None
    if kinds[0] is int and not all(re.fullmatch(r"\d+", key) for key in value):
        faults.append(f"{where} must have whole numbers as keys, got {sorted(value)}")
        return None
    return {
        kinds[0](key): decode(kinds[1], item, faults, _step_into(where, key, faults)) for key, item in value.items()
    }


def _step_into(where: str, key: Any, faults: list[str]) -> str:
    """Returns the place of an item of an object; its name is checked as any text is."""
    _check_plain(key, f"a name in {where}", faults)
    return f"{where}.{printable(str(key))}"
