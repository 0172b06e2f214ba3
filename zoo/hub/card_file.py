"""Reads, checks and writes `card.json`."""

import json
import math
import os
import re
from pathlib import Path

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub import json_records
from zoo.hub.card import ACTIVATIONS, DTYPES, KINDS, NAME, NAMED, SHOWN, Card, Stored

FILE = "card.json"
MOST_BYTES = 1 << 20

_RESERVED = (FILE, f"{FILE}.new", "readme.md")  # in lower case: some file systems know no other
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

    Example:
        >>> read("pretrained/unet3d.brain_mask").task  # doctest: +SKIP
        'brain_mask'
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no card at {path}. A trained model is a folder that holds a {FILE}.")
    with path.open("rb") as file:
        return parse(file.read(MOST_BYTES + 1), str(path))


def parse(content: bytes, source: str) -> Card:
    """Parses and checks the bytes of a `card.json`; errors name `source`.

    Raises:
        ValueError: too long, not JSON, or not a good card; every fault is named.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{source} is longer than {MOST_BYTES} bytes, so it is no card. Fetch or write it anew.")
    faults: list[str] = []
    try:
        card = json_records.decode(Card, json.loads(content), faults)
    except ValueError as error:  # JSON and UTF-8 errors alike
        raise ValueError(f"{source} is not JSON ({error}). It may be truncated: fetch or write it anew.") from error
    except RecursionError:
        raise ValueError(f"{source} nests lists without end, so it is no card. Fetch or write it anew.") from None
    _raise_faults(faults, source)
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
    text = json.dumps(json_records.to_plain(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return files.write_whole(path, text.encode())


def check(card: Card, *, complete: bool = True) -> None:
    """Checks the types of a card, then its values.

    Args:
        card: the card.
        complete: whether the measured fields must be there too; False for a card that is about to be saved.

    Raises:
        ValueError: every fault, each with its field and value.
    """
    source = f"card {getattr(card, 'name', card)!r}"
    faults: list[str] = []
    json_records.decode(Card, json_records.to_plain(card), faults)
    _raise_faults(faults, source)
    for rule in (
        _check_name,
        _check_texts,
        _check_input,
        _check_tabular,
        _check_output,
        _check_plausible,
        _check_training,
        _check_metrics,
    ):
        rule(card, faults)
    _check_measured(card, faults, complete)
    _raise_faults(faults, source)


def _raise_faults(faults: list[str], source: str) -> None:
    if faults:
        listed = "; ".join(faults)
        raise ValueError(f"{source} has {len(faults)} fault(s): {listed}. Correct the fields named.")


def _check_name(card: Card, faults: list[str]) -> None:
    if not NAME.fullmatch(card.name) or card.name.split(".")[0] != card.builder:
        faults.append(f"name must be '{card.builder}.tag' in lower case, got {card.name!r}")
    if not _VERSION.fullmatch(card.version):
        faults.append(f"version must be like '1.0.0', got {card.version!r}")
    elif card.version not in card.changelog:
        faults.append(f"changelog must have the present version {card.version!r}, got {sorted(card.changelog)}")


def _check_texts(card: Card, faults: list[str]) -> None:
    texts = {name: getattr(card, name) for name in ("task", "description", "licence", "intended_use")}
    texts |= {f"training.{name}": getattr(card.training, name) for name in ("data", "data_licence", "command")}
    faults += [f"{name} must not be empty" for name, text in texts.items() if not text.strip()]
    if not card.limits:
        faults.append("limits must name at least one, got none")
    for doi in card.references:
        if not _DOI.fullmatch(doi):
            faults.append(f"references must be DOIs such as '10.1000/182', got {doi!r}")


def _check_input(card: Card, faults: list[str]) -> None:
    inputs = card.input
    names = [channel.name for channel in inputs.channels]
    if not names or len(set(names)) < len(names):
        faults.append(f"input.channels must be one or more with names that differ, got {names}")
    shape = card.arguments.get("input_shape")
    if isinstance(shape, tuple | list) and shape[-1:] and shape[-1] != inputs.num_channels:
        faults.append(f"arguments.input_shape must end in the {inputs.num_channels} channels of input, got {shape}")
    if inputs.orientation != "RAS":
        faults.append(f"input.orientation must be 'RAS', got {inputs.orientation!r}")
    if inputs.spacing_mm and not all(0 < size < math.inf for size in inputs.spacing_mm):
        faults.append(f"input.spacing_mm must be positive, got {inputs.spacing_mm}")
    if any(size < 1 for size in inputs.divisor):
        faults.append(f"input.divisor must be 1 or more, got {inputs.divisor}")
    elif any(size < 1 or size % by for size, by in zip(inputs.patch, inputs.divisor, strict=True)):
        faults.append(f"input.patch must be positive multiples of {inputs.divisor}, got {inputs.patch}")
    if inputs.centred and (card.output.kind != "segmentation" or inputs.context):
        faults.append("input.centred needs a segmentation without input.context: a foreground to look at")
    _check_context(card, faults)


def _check_context(card: Card, faults: list[str]) -> None:
    ratio, built = card.input.context, card.arguments.get("context")
    if ratio != built:
        faults.append(f"input.context must be arguments.context, {built}, got {ratio}")
    elif ratio is not None and (ratio < 2 or any(size % (2 * ratio) for size in card.input.divisor)):
        faults.append(
            f"input.context needs 2 or more and a divisor of its double, got {ratio} and {card.input.divisor}"
        )


def _check_tabular(card: Card, faults: list[str]) -> None:
    fields = card.input.tabular
    names = [field.name for field in fields]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        faults.append(f"input.tabular must have plain names that differ, got {names}")
    for field in fields:
        numbers = (field.low, field.high, field.mean, field.sd, *field.grades.values())
        if not all(map(math.isfinite, numbers)) or field.low >= field.high or field.sd <= 0:
            faults.append(f"input.tabular {field.name} needs finite numbers, low < high and sd > 0, got {numbers}")
        elif not all(field.low <= value <= field.high for value in field.grades.values()):
            faults.append(
                f"input.tabular {field.name} has grades outside {field.low:g} to {field.high:g}, got {field.grades}"
            )
    if fields and card.arguments.get("conditioning", 0) != 2 * len(fields):
        faults.append(
            f"arguments.conditioning must be {2 * len(fields)}, two for each tabular value of input, got "
            f"{card.arguments.get('conditioning', 0)}"
        )


def _check_output(card: Card, faults: list[str]) -> None:
    output = card.output
    for what, value, choices in (("kind", output.kind, KINDS), ("activation", output.activation, ACTIVATIONS)):
        if value not in choices:
            faults.append(f"output.{what}: {str(unknown_choice(what, value, choices)).rstrip('.')}")
    names = [label.name for label in output.labels.values()]
    if sorted(output.labels) != list(range(len(names))) or len(set(names)) < len(names):
        faults.append(f"output.labels must count from 0 with names that differ, got {output.labels}")
    if output.kind not in NAMED:
        return
    num_classes = card.arguments.get("num_classes", len(names))
    if not names or num_classes != len(names):
        faults.append(f"output.labels must name the {num_classes} classes of arguments.num_classes, got {names}")


def _check_plausible(card: Card, faults: list[str]) -> None:
    if (plausible := card.plausible) is None:
        return
    if plausible.shows not in SHOWN:
        faults.append(f"plausible.shows must be one of {SHOWN}, got {plausible.shows!r}")
    ranges = plausible.volumes_ml | ({"extent_mm": plausible.extent_mm} if plausible.extent_mm else {})
    for name, (low, high) in ranges.items():
        if not 0 <= low < high < math.inf:
            faults.append(f"plausible {name} must have 0 <= least < greatest, got {(low, high)}")
    names = {label.name for label in card.output.labels.values()}
    if unknown := sorted(set(plausible.volumes_ml) - names):
        faults.append(f"plausible.volumes_ml must name labels of output, got {unknown}")


def _check_training(card: Card, faults: list[str]) -> None:
    training = card.training
    if training.commit is not None and not _COMMIT.fullmatch(training.commit):
        faults.append(f"training.commit must be 7 to 40 hexadecimal digits, got {training.commit!r}")
    for name in ("seed", "steps", "minutes"):
        value = getattr(training, name)
        if value is not None and not 0 <= value < math.inf:
            faults.append(f"training.{name} must be 0 or more, got {value}")


def _check_metrics(card: Card, faults: list[str]) -> None:
    for data, metrics in card.metrics.items():
        if not (isinstance(metrics.get("n"), int) and metrics["n"] >= 1):
            faults.append(f"metrics.{data}.n must count the cases, got {metrics.get('n')}")
        faults += [
            f"metrics.{data}.{name} must be finite, got {value}"
            for name, value in metrics.items()
            if not math.isfinite(value)
        ]


def _check_measured(card: Card, faults: list[str], complete: bool) -> None:
    missing = [name for name in ("parameters", "weights", "golden") if getattr(card, name) is None]
    if complete and missing:
        faults.append(f"{', '.join(missing)} must be measured (zoo.save writes them), got none")
    if card.parameters is not None and card.parameters < 1:
        faults.append(f"parameters must be 1 or more, got {card.parameters}")
    if card.weights and card.weights.dtype not in DTYPES:
        faults.append(f"weights.dtype: {str(unknown_choice('dtype', card.weights.dtype, DTYPES)).rstrip('.')}")
    stored = [("weights", card.weights), ("golden", card.golden), *(("attached", file) for file in card.attached)]
    for where, file in stored:
        if file is not None:
            _check_file(where, file, faults)
    names = [file.file.lower() for _, file in stored if file is not None]
    if len(set(names)) < len(names):
        faults.append(f"weights, golden and attached must be files of different names, got {names}")


def _check_file(where: str, stored: Stored, faults: list[str]) -> None:
    if not _FILE_NAME.fullmatch(stored.file) or stored.file.lower() in _RESERVED:
        faults.append(f"{where}.file must be a plain file name beside the card, got {stored.file!r}")
    if stored.bytes < 1:
        faults.append(f"{where}.bytes must be 1 or more, got {stored.bytes}")
    if not _SHA256.fullmatch(stored.sha256):
        faults.append(f"{where}.sha256 must be 64 hexadecimal digits, got {stored.sha256!r}")
