"""Reads, checks and writes `card.json`."""

import json
import math
import os
import re
from pathlib import Path

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub import json_records
from zoo.hub.card import ACTIVATIONS, DTYPES, KINDS, NAME, NAMED, Card, Stored

FILE = "card.json"


_VERSION = re.compile(r"\d+\.\d+\.\d+")


_DOI = re.compile(r"10\.\d{4,9}/\S+")


_SHA256 = re.compile(r"[0-9a-f]{64}")


_COMMIT = re.compile(r"[0-9a-f]{7,40}")


_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def read(path: str | os.PathLike) -> Card:
    """Reads and checks a card.

    Args:
        path: `card.json`, or the folder that holds it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not a good card; every fault is named.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no card at {path}. A trained model is a folder that holds a {FILE}.")
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, source: str) -> Card:
    """Makes a checked card of the bytes of a `card.json`; `source` says in errors where they came from.

    Raises:
        ValueError: not JSON, or not a good card; every fault is named.
    """
    try:
        plain = json.loads(content)
    except ValueError as error:  # JSON and UTF-8 errors alike
        raise ValueError(f"{source} is not JSON ({error}). It may be truncated: fetch or write it anew.") from error
    faults: list[str] = []
    card = json_records.decode(Card, plain, faults)
    _raise(faults, source)
    check(card)
    return card


def write(card: Card, path: str | os.PathLike) -> Path:
    """Checks a card and writes it, atomically, as UTF-8 JSON with the fields in the order of `Card`.

    Args:
        card: a complete card.
        path: `card.json`, or the folder for it.

    Returns:
        The file's path.

    Raises:
        ValueError: the card has faults; nothing is written.
    """
    check(card)
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    text = json.dumps(json_records.plain(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return files.write_whole(path, text.encode())


def check(card: Card, *, complete: bool = True) -> None:
    """Checks types, then sense: what a caller relies on must hold.

    Args:
        card: the card.
        complete: whether the measured fields must be there too; False for a card that is about to be saved.

    Raises:
        ValueError: every fault, each with its field and value.
    """
    source = f"card {getattr(card, 'name', card)!r}"
    faults: list[str] = []
    json_records.decode(Card, json_records.plain(card), faults)
    _raise(faults, source)
    for rule in (_identity, _words, _input, _tabular, _output, _provenance, _numbers):
        rule(card, faults)
    _measured(card, faults, complete)
    _raise(faults, source)


def _raise(faults: list[str], source: str) -> None:
    if faults:
        listed = "; ".join(faults)
        raise ValueError(f"{source} has {len(faults)} fault(s): {listed}. Correct the fields named.")


def _identity(card: Card, faults: list[str]) -> None:
    if not NAME.fullmatch(card.name) or card.name.split(".")[0] != card.builder:
        faults.append(f"name must be '{card.builder}.tag' in lower case, got {card.name!r}")
    if not _VERSION.fullmatch(card.version):
        faults.append(f"version must be like '1.0.0', got {card.version!r}")
    elif card.version not in card.changelog:
        faults.append(f"changelog must have the present version {card.version!r}, got {sorted(card.changelog)}")


def _words(card: Card, faults: list[str]) -> None:
    texts = {name: getattr(card, name) for name in ("task", "description", "licence", "intended_use")}
    texts |= {f"training.{name}": getattr(card.training, name) for name in ("data", "data_licence", "command")}
    faults += [f"{name} must not be empty" for name, text in texts.items() if not text.strip()]
    if not card.limits:
        faults.append("limits must name at least one, got none")
    for doi in card.references:
        if not _DOI.fullmatch(doi):
            faults.append(f"references must be DOIs such as '10.1000/182', got {doi!r}")


def _input(card: Card, faults: list[str]) -> None:
    given = card.input
    names = [channel.name for channel in given.channels]
    if not names or len(set(names)) < len(names):
        faults.append(f"input.channels must be one or more with names that differ, got {names}")
    shape = card.arguments.get("input_shape")
    if isinstance(shape, tuple | list) and shape[-1:] and shape[-1] != given.num_channels:
        faults.append(f"arguments.input_shape must end in the {given.num_channels} channels of input, got {shape}")
    if given.orientation != "RAS":
        faults.append(f"input.orientation must be 'RAS', got {given.orientation!r}")
    if given.spacing_mm and not all(0 < size < math.inf for size in given.spacing_mm):
        faults.append(f"input.spacing_mm must be positive, got {given.spacing_mm}")
    if any(size < 1 for size in given.divisor):
        faults.append(f"input.divisor must be 1 or more, got {given.divisor}")
    elif any(size < 1 or size % by for size, by in zip(given.patch, given.divisor, strict=True)):
        faults.append(f"input.patch must be positive multiples of {given.divisor}, got {given.patch}")
    _context(card, faults)


def _context(card: Card, faults: list[str]) -> None:
    ratio, built = card.input.context, card.arguments.get("context")
    if ratio != built:
        faults.append(f"input.context must be arguments.context, {built}, got {ratio}")
    elif ratio is not None and (ratio < 2 or any(size % (2 * ratio) for size in card.input.divisor)):
        faults.append(
            f"input.context needs 2 or more and a divisor of its double, got {ratio} and {card.input.divisor}"
        )


def _tabular(card: Card, faults: list[str]) -> None:
    given = card.input.tabular
    names = [one.name for one in given]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        faults.append(f"input.tabular must have plain names that differ, got {names}")
    for one in given:
        numbers = (one.low, one.high, one.mean, one.sd, *one.grades.values())
        if not all(map(math.isfinite, numbers)) or one.low >= one.high or one.sd <= 0:
            faults.append(f"input.tabular {one.name} needs finite numbers, low < high and sd > 0, got {numbers}")
        elif not all(one.low <= value <= one.high for value in one.grades.values()):
            faults.append(f"input.tabular {one.name} has grades outside {one.low:g} to {one.high:g}, got {one.grades}")
    if given and card.arguments.get("conditioning", 0) != 2 * len(given):
        faults.append(
            f"arguments.conditioning must be {2 * len(given)}, two for each tabular value of input, got "
            f"{card.arguments.get('conditioning', 0)}"
        )


def _output(card: Card, faults: list[str]) -> None:
    given = card.output
    for what, value, choices in (("kind", given.kind, KINDS), ("activation", given.activation, ACTIVATIONS)):
        if value not in choices:
            faults.append(f"output.{what}: {str(unknown_choice(what, value, choices)).rstrip('.')}")
    names = [label.name for label in given.labels.values()]
    if sorted(given.labels) != list(range(len(names))) or len(set(names)) < len(names):
        faults.append(f"output.labels must count from 0 with names that differ, got {given.labels}")
    if given.kind not in NAMED:
        return
    num_classes = card.arguments.get("num_classes", len(names))
    if not names or num_classes != len(names):
        faults.append(f"output.labels must name the {num_classes} classes of arguments.num_classes, got {names}")


def _provenance(card: Card, faults: list[str]) -> None:
    given = card.training
    if given.commit is not None and not _COMMIT.fullmatch(given.commit):
        faults.append(f"training.commit must be 7 to 40 hexadecimal digits, got {given.commit!r}")
    for name in ("seed", "steps", "minutes"):
        value = getattr(given, name)
        if value is not None and not 0 <= value < math.inf:
            faults.append(f"training.{name} must be 0 or more, got {value}")


def _numbers(card: Card, faults: list[str]) -> None:
    for data, metrics in card.metrics.items():
        if not (isinstance(metrics.get("n"), int) and metrics["n"] >= 1):
            faults.append(f"metrics.{data}.n must count the cases, got {metrics.get('n')}")
        faults += [
            f"metrics.{data}.{name} must be finite, got {value}"
            for name, value in metrics.items()
            if not math.isfinite(value)
        ]


def _measured(card: Card, faults: list[str], complete: bool) -> None:
    missing = [name for name in ("parameters", "weights", "golden") if getattr(card, name) is None]
    if complete and missing:
        faults.append(f"{', '.join(missing)} must be measured (zoo.save writes them), got none")
    if card.parameters is not None and card.parameters < 1:
        faults.append(f"parameters must be 1 or more, got {card.parameters}")
    if card.weights and card.weights.dtype not in DTYPES:
        faults.append(f"weights.dtype: {str(unknown_choice('dtype', card.weights.dtype, DTYPES)).rstrip('.')}")
    for where, given in (("weights", card.weights), ("golden", card.golden), *(("attached", x) for x in card.attached)):
        if given is not None:
            _file(where, given, faults)


def _file(where: str, given: Stored, faults: list[str]) -> None:
    if not _FILE_NAME.fullmatch(given.file) or given.file == FILE:
        faults.append(f"{where}.file must be a plain file name beside the card, got {given.file!r}")
    if given.bytes < 1:
        faults.append(f"{where}.bytes must be 1 or more, got {given.bytes}")
    if not _SHA256.fullmatch(given.sha256):
        faults.append(f"{where}.sha256 must be 64 hexadecimal digits, got {given.sha256!r}")
