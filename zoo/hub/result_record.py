"""Records what made a result (weights, settings, input) in a JSON file beside it, and decides by that what is kept.

One rule for every command: a result is kept where its record names the same weights, settings and input. One of other
weights or settings is neither kept nor replaced unasked, and one whose input changed is made again.
"""

import contextlib
import dataclasses
import datetime
import enum
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from zoo import files
from zoo.hub.card import Card
from zoo.hub.download import sha256

Record = dict[str, Any]
Input = str | os.PathLike | nibabel.spatialimages.SpatialImage
PARTS = {"Model": "weights", "Settings": "settings"}  # entries whose difference is refused, and what errors call them
WARNINGS, PENDING = "Warnings", "Pending"


class StaleResultError(ValueError):
    """A result was made in another way than the one that is asked for."""


class ChangedInputWarning(UserWarning):
    """Warns that the input of a result changed since, so that the result is made again."""


class RecordedWarning(UserWarning):
    """Repeats a warning of the time when a result that is kept was made."""


class Verdict(enum.Enum):
    """What a record says of its result."""

    CURRENT = enum.auto()
    ABSENT = enum.auto()
    CHANGED = enum.auto()


@dataclasses.dataclass(frozen=True)
class Origin:
    """Everything that decides a result.

    Attributes:
        model: as `describe_model` returns it.
        settings: how the model is run.
        inputs: files or images by name.
        tabular: values beside them.
        products: settings of what is made beside the result, such as a table of lesions; compared where it was made.

    Example:
        >>> origin = Origin({"Name": "unet3d.brain_mask"}, {"Mirror": True})
        >>> origin.judge({"Model": {"Name": "unet3d.brain_mask"}, "Settings": {"Mirror": True}}, "mask.nii.gz").name
        'CURRENT'
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Input] = dataclasses.field(default_factory=dict)
    tabular: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    products: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_record(self) -> Record:
        """Returns the record, with the size, time and sha256 of every file.

        Raises:
            FileNotFoundError: a file is not there.
        """
        inputs = {name: describe_input(value) for name, value in self.inputs.items()}
        record = {"Model": self.model, "Settings": self.settings, "Inputs": inputs, "Tabular": self.tabular}
        return _as_json(record | ({"Products": self.products} if self.products else {}))

    def judge(self, record: Record, target: str | os.PathLike) -> Verdict:
        """Compares a record with what is asked for.

        Args:
            record: of an earlier result, as `read` returns it.
            target: the result, for the error.

        Raises:
            StaleResultError: weights or settings differ; each difference is named.
        """
        expected = _as_json({"Model": self.model, "Settings": self.settings, "Products": self.products})
        for part, word in PARTS.items():
            if phrases := _find_differences(record.get(part), expected[part]):
                raise _refuse(target, word, phrases)
        made = record.get("Products") or {}
        if not set(expected["Products"]) <= set(made):
            return Verdict.ABSENT
        if phrases := _find_differences({name: made[name] for name in expected["Products"]}, expected["Products"]):
            raise _refuse(target, "settings", phrases)
        return Verdict.CURRENT if self._is_same_input(record) else Verdict.CHANGED

    def _is_same_input(self, record: Record) -> bool:
        stored = record.get("Inputs") or {}
        if (record.get("Tabular") or {}) != _as_json(self.tabular) or set(stored) != set(self.inputs):
            return False
        return all(_is_same(stored[name], value) for name, value in self.inputs.items())


def describe_model(card: Card, weights_sha256: str | None = None) -> Record:
    """Returns what identifies a model: name, version, and hashes of its weights and of its card's input, output, steps.

    Args:
        card: of the model.
        weights_sha256: of weights that are not those of the card.

    Raises:
        ValueError: the card names no weights, and none are given.
    """
    if weights_sha256 is None:
        if card.weights is None:
            raise ValueError(f"{card.name} has no weights on its card. Save it by zoo.save, or name another model.")
        weights_sha256 = card.weights.sha256
    steps: list[Any] = [card.input, card.output, *card.preprocessing, *card.postprocessing]
    plain = _as_json([dataclasses.asdict(step) for step in steps])
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return {"Name": card.name, "Version": card.version, "WeightsSha256": weights_sha256, "StepsSha256": digest}


def hash_weights(model: Any) -> str:
    """Returns the sha256 of the weights of a Keras model in memory, by the paths of its variables."""
    from zoo.hub.safetensors_file import arrays

    digest = hashlib.sha256()
    for path, array in sorted(arrays(model).items()):
        digest.update(repr((path, array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def describe_input(value: Input) -> Record:
    """Returns name, size, time and sha256 of a file; size and sha256 of an image in memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder.
    """
    if isinstance(value, nibabel.spatialimages.SpatialImage):
        voxels = np.ascontiguousarray(np.asanyarray(value.dataobj))
        digest = hashlib.sha256(repr((voxels.shape, voxels.dtype.str)).encode())
        digest.update(np.asarray(value.affine, "<f8").tobytes())
        digest.update(voxels.data)
        return {"Bytes": voxels.nbytes, "Sha256": digest.hexdigest()}
    path = Path(value)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Check the path.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Name one.")
    return {"File": str(path), **_describe_status(path), "Sha256": sha256(path)}


def sidecar(target: str | os.PathLike) -> Path:
    """Returns the JSON file beside a result.

    Example:
        >>> sidecar("out/a_brain_mask.nii.gz").name
        'a_brain_mask.json'
    """
    path = Path(target)
    name = path.name.removesuffix(".gz")
    return path.with_name(f"{name[: len(name) - len(Path(name).suffix)]}.json")


def read(target: str | os.PathLike) -> Record | None:
    """Returns the record beside a result; None where there is none, or it is broken or another program's."""
    try:
        record = json.loads(sidecar(target).read_bytes())
    except (OSError, ValueError):
        return None
    return record if _is_record(record) else None


def check_replaceable(target: str | os.PathLike) -> None:
    """Refuses to write a record over a JSON file of another program.

    Raises:
        FileExistsError: there is such a file; it is named.
    """
    path = sidecar(target)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    if not _is_record(content):
        raise FileExistsError(
            f"{path} is not a record of zoo, and one would be written there. Move it, or name the result otherwise."
        )


def is_kept(target: str | os.PathLike, origin: Origin) -> tuple[bool, list[Warning]]:
    """Returns whether a whole result is kept, and what to warn of.

    Args:
        target: the result, which is there and whole.
        origin: what is asked for.

    Returns:
        True and the warnings of its making, where its record names the same; False where it is to be made again, with
        a `ChangedInputWarning` where its input is another now.

    Raises:
        StaleResultError: it has no record, or one of other weights or settings.
    """
    record = read(target)
    if record is None:
        raise StaleResultError(
            f"{target} is there without a {sidecar(target).name} of zoo, which would say how it was made. Pass "
            "--overwrite to replace it, or name another folder."
        )
    if PENDING in record:  # a run that was killed began to write it
        return False, []
    verdict = origin.judge(record, target)
    if verdict is Verdict.CURRENT:
        return True, recorded_warnings(record)
    return False, [changed_input(target)] if verdict is Verdict.CHANGED else []


def changed_input(target: str | os.PathLike) -> ChangedInputWarning:
    """Words that a result is made again since its input changed."""
    return ChangedInputWarning(f"{target} was made from another input than that of now, and is made again")


def recorded_warnings(record: Record | None) -> list[Warning]:
    """Returns what zoo warned of when a result was made."""
    return [RecordedWarning(text) for text in (record or {}).get(WARNINGS, [])]


@contextlib.contextmanager
def writing(target: str | os.PathLike, record: Record) -> Iterator[None]:
    """Marks a result as being written while its files are, in place of the record of an older one; `write` ends that.

    A run that is killed meanwhile leaves no new file beside an old record, and the next one makes the result again. A
    failure before the main file was replaced leaves the older record.

    Args:
        target: the main file; its folder is made.
        record: as `Origin.as_record` returns it.

    Raises:
        FileExistsError: as `check_replaceable`.
    """
    check_replaceable(target)
    path, before = sidecar(target), _find_status(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_bytes() if path.exists() else None
    files.write_whole(path, json.dumps({**record, PENDING: True}, indent=2).encode())
    try:
        yield
    except BaseException:
        if _find_status(target) == before:
            path.unlink() if old is None else files.write_whole(path, old)
        raise


def _find_status(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns what tells whether a file was replaced; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns
    return None


def write(target: str | os.PathLike, record: Record, warned: Iterable[Warning] = ()) -> Path:
    """Writes the record of a result, whole or not at all; it comes after everything that it is the record of.

    Args:
        target: the result.
        record: as `Origin.as_record` returns it, and whatever else is to be told.
        warned: what zoo warned of.

    Returns:
        The path of the JSON file.
    """
    from zoo import __version__

    texts = [str(warning) for warning in warned if not isinstance(warning, ChangedInputWarning)]
    content = {"GeneratedBy": [{"Name": "zoo", "Version": __version__}], **record, WARNINGS: texts}
    return files.write_whole(sidecar(target), (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _is_record(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in PARTS)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_as_plain))


def _as_plain(value: Any) -> Any:
    """Returns a NumPy number or array, or a path, as JSON has it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else os.fspath(value)


def _describe_status(path: Path) -> Record:
    status = path.stat()
    modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
    return {"Bytes": status.st_size, "Modified": modified.isoformat()}


def _is_same(stored: Any, value: Input) -> bool:
    """Returns whether an input is the recorded one; the content is read where the time of a file differs."""
    if not isinstance(stored, dict):
        return False
    if isinstance(value, nibabel.spatialimages.SpatialImage):
        return stored.get("Sha256") == describe_input(value)["Sha256"]
    path = Path(value)
    if not path.is_file():
        return False
    status = _describe_status(path)
    if stored.get("Bytes") != status["Bytes"]:
        return False
    return stored.get("Modified") == status["Modified"] or stored.get("Sha256") == sha256(path)


def _find_differences(stored: Any, expected: Mapping[str, Any]) -> list[str]:
    stored = stored if isinstance(stored, dict) else {}
    return [
        f"{name} was {json.dumps(stored.get(name))}, now {json.dumps(expected.get(name))}"
        for name in dict.fromkeys([*expected, *stored])
        if stored.get(name) != expected.get(name)
    ]


def _refuse(target: str | os.PathLike, word: str, phrases: list[str]) -> StaleResultError:
    return StaleResultError(
        f"{target} was made with other {word}: {'; '.join(phrases)}. Pass --overwrite to replace it, or name another "
        "folder."
    )
