"""Writes what a folder of BIDS derivatives holds beside the results of single cases.

Source: BIDS 1.10, common derivatives and segmentations; Gorgolewski et al., The brain imaging data structure,
Scientific Data 2016, 10.1038/sdata.2016.44.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from zoo.datasets.readers.bids import FILE
from zoo.files import write_whole
from zoo.hub.card import Card
from zoo.workflows.bids_app.plan import make_description

VERSION = "1.10.0"  # of the standard
LOGS = "logs"
IGNORED = f"{LOGS}/\n*_volumes.tsv\n"  # the standard has no name for a table of volumes yet
README = """# Results of zoo

Written by `zoo bids` (zoo {version}) from the images of the data set that `DatasetLinks` in `{file}` names: label maps,
masks or probabilities, each on the grid of its own scan, with a JSON file that says from which images and with which
weights it was made. Research use, not for diagnosis.

- `*_mask.nii.gz`: 1 where the one structure is that the model finds.
- `*_dseg.nii.gz`: one integer a structure; `desc-*_dseg.tsv` names them.
- `*_probseg.nii.gz`: a probability a structure, in the order of `LabelMap` in the JSON file.
- `*_volumes.tsv`: voxels, volume in ml and asymmetry between left and right a structure (not part of BIDS yet).
- `logs/`: the outcome of every case.
"""


@dataclass(frozen=True)
class Derivatives:
    """A folder of derivatives.

    Attributes:
        out: the folder.
        root: the data set that the results are made from.
        card: of the model.
        version: of zoo.
    """

    out: Path
    root: Path
    card: Card
    version: str

    def check(self) -> None:
        """Refuses a folder that is not ours to write into.

        Raises:
            ValueError: it is the data set itself, or a data set that another program made.
        """
        if self.out.resolve() == self.root.resolve():
            raise ValueError(
                f"{self.out} is the data set itself. Name another folder, such as {self.out}/derivatives/zoo."
            )
        description = self._read_description()
        makers = [entry.get("Name") for entry in description.get("GeneratedBy", []) if isinstance(entry, dict)]
        if description and "zoo" not in makers:
            origin = f"made by {makers[0]}" if makers else "a data set of its own"
            raise ValueError(f"{self.out} is {origin}, by its {FILE}. Name a folder that is new, or that zoo made.")

    def begin(self, names: Sequence[str]) -> None:
        """Writes the files that describe the folder; entries of other models are kept.

        Args:
            names: of the structures, for the table of labels; none where there is no label map.
        """
        (self.out / LOGS).mkdir(parents=True, exist_ok=True)
        with self._lock():
            _write_json(self.out / FILE, self._describe(self._read_description()))
            write_whole(self.out / "README.md", README.format(version=self.version, file=FILE).encode())
            write_whole(self.out / ".bidsignore", IGNORED.encode())
            if names:
                write_whole(
                    self.out / f"desc-{make_description(self.card.name)}_dseg.tsv", self._format_labels(names).encode()
                )

    def _format_labels(self, names: Sequence[str]) -> str:
        rows = [(label.value, label.name) for label in self.card.output.labels.values() if label.name in names]
        return "".join(f"{value}\t{name}\n" for value, name in [("index", "name"), *sorted(rows)])

    def _describe(self, current: dict[str, Any]) -> dict[str, Any]:
        maker = {"Name": "zoo", "Version": self.version, "Description": f"zoo bids --model {self.card.name}"}
        others = [entry for entry in current.get("GeneratedBy", []) if entry.get("Description") != maker["Description"]]
        raw = _link(self.root, self.out)
        return {
            "Name": f"zoo on {_read_json(self.root / FILE).get('Name') or self.root.resolve().name}",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [*others, maker],
            "SourceDatasets": [{"URL": raw}],
            "DatasetLinks": {"raw": raw},
        }

    def _read_description(self) -> dict[str, Any]:
        return _read_json(self.out / FILE)

    def carry_participants(self) -> None:
        """Copies the rows of participants.tsv that belong to participants with results, and its data dictionary."""
        table, words = self.root / "participants.tsv", self.root / "participants.json"
        if not table.is_file():
            return
        with self._lock():
            header, *rows = table.read_text(encoding="utf-8-sig").splitlines()
            present = [row for row in rows if (self.out / row.split("\t")[0].strip()).is_dir() and row.strip()]
            write_whole(self.out / table.name, "".join(f"{row}\n" for row in [header, *present]).encode())
            if words.is_file():
                write_whole(self.out / words.name, words.read_bytes())

    def _lock(self) -> filelock.BaseFileLock:
        """Locks the files that the shards of a run share."""
        return filelock.FileLock(self.out / LOGS / ".lock")


def _link(root: Path, out: Path) -> str:
    """Returns the path of the data set: relative where the derivatives lie inside or beside it, else as a URI."""
    root, out = root.resolve(), out.resolve()
    near = out.is_relative_to(root) or out.parent == root.parent
    return Path(os.path.relpath(root, out)).as_posix() if near else root.as_uri()


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file; returns {} where there is none.

    Raises:
        ValueError: it is not an object in JSON.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Repair or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}. Repair or remove it.")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
