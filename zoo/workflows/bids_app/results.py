"""Makes the results of one case among BIDS derivatives, and recognises finished ones.

Files are written whole or not at all, and the JSON file comes last: where it is, names the same weights, settings and
images, and the image beside it can be read to its last byte, the case is finished.
"""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import files
from zoo.hub import card_file
from zoo.hub.card import Card
from zoo.volumes import image, nifti
from zoo.workflows.bids_app.plan import PlannedCase

if TYPE_CHECKING:
    from zoo.inference.predictor import Predictor

SUFFIX = ".nii.gz"
SHOWN = {"brain": "Brain", "lesion": "Lesion", "lacune": "Lesion", "infarct": "Lesion"}  # BIDS' words for a mask


@dataclass(frozen=True)
class CohortRecipe:
    """How every case is run, in plain values that any process can receive.

    Attributes:
        model: folder of the trained model.
        out: folder of the derivatives.
        probabilities: whether probabilities are written, not labels.
        mirror: whether mirror images are averaged.
        device: as Keras names it; "" for whatever there is.
    """

    model: str
    out: str
    probabilities: bool = False
    mirror: bool = False
    device: str = ""

    @cached_property
    def card(self) -> Card:
        """The card of the model."""
        return card_file.read(Path(self.model))

    @property
    def structures(self) -> list[str]:
        """Names of what the model finds: its labels but for the background."""
        return [label.name for label in self.card.output.labels.values() if label.value]

    @property
    def kind(self) -> str:
        """Suffix of the results by BIDS: "probseg", "mask" for one structure, "dseg" for several."""
        return "probseg" if self.probabilities else "mask" if len(self.structures) == 1 else "dseg"

    def target(self, work: PlannedCase) -> Path:
        """File of the image of a case."""
        return Path(self.out) / f"{work.target}_{self.kind}{SUFFIX}"

    def model_words(self) -> dict[str, Any]:
        """Returns what identifies the weights and the way to predict."""
        card = self.card
        if card.weights is None:
            raise ValueError(f"{card.name} has no weights on its card. Save it by zoo.save, or name another model.")
        return {
            "Model": {"Name": card.name, "Version": card.version, "WeightsSha256": card.weights.sha256},
            "Settings": {"Probabilities": self.probabilities, "Mirror": self.mirror},
        }


def input_words(work: PlannedCase) -> dict[str, Any]:
    """Returns what identifies the input of a case: files, their sizes, values beside them.

    Raises:
        FileNotFoundError: a file is not there.
    """
    sizes = [Path(path).stat().st_size for path in work.images.values()]
    return {"Sources": work.sources, "SourceBytes": sizes, "Tabular": work.tabular}


def sidecar(target: Path) -> Path:
    """Returns the JSON file beside an image."""
    return target.with_name(target.name.removesuffix(SUFFIX) + ".json")


def is_finished(work: PlannedCase, recipe: CohortRecipe) -> bool:
    """Returns whether a case is there, whole, and made from the images that it has now.

    Raises:
        ValueError: it was made by another version of the model or in another way; what differs is named.
    """
    target = recipe.target(work)
    try:
        stored = json.loads(sidecar(target).read_bytes())
    except (OSError, ValueError):
        return False
    expected = recipe.model_words()
    earlier = {name: stored.get(name) for name in expected}
    if earlier != expected:
        raise ValueError(
            f"{target} was made with {_word_difference(earlier, expected)}, and "
            f"{_word_difference(expected, earlier)} is asked for. Pass "
            "--overwrite to make it again, or name another folder."
        )
    with contextlib.suppress(OSError, ValueError):
        expected = input_words(work)
        nifti.load(target)
        return {name: stored.get(name) for name in expected} == expected
    return False


def _word_difference(record: dict[str, Any], other: dict[str, Any]) -> str:
    """Returns the entries of a record that differ from another."""
    flat, also = (
        {name: value for part in record.values() for name, value in (part or {}).items()} for record in (record, other)
    )
    return ", ".join(f"{name} {flat.get(name)}" for name in {**flat, **also} if flat.get(name) != also.get(name))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: "done", "kept" or "failed", with wall time in seconds, result and error."""

    case: str
    status: str
    seconds: float | None = None
    output: str = ""
    error: str = ""


class Worker:
    """Makes result after result; the network is built at the first one."""

    def __init__(self, recipe: CohortRecipe) -> None:
        self.recipe = recipe

    @cached_property
    def _predictor(self) -> "Predictor":
        from zoo.inference.predictor import Predictor
        from zoo.inference.settings import Settings

        recipe = self.recipe
        return Predictor(recipe.model, settings=Settings(probabilities=recipe.probabilities, mirror=recipe.mirror))

    def __call__(self, work: PlannedCase) -> Outcome:
        """Predicts and writes one case; its faults are returned in the outcome, not raised."""
        import keras

        with keras.device(self.recipe.device) if self.recipe.device else contextlib.nullcontext():
            predictor = self._predictor  # what is wrong with the model is raised: it is no fault of the case
            start, target = time.perf_counter(), self.recipe.target(work)
            try:
                self._write(predictor, work, target)
            except Exception as error:  # whatever it is, the other cases can still be done
                return Outcome(work.name, "failed", error=" ".join(f"{error or type(error).__name__}".split()))
        return Outcome(work.name, "done", round(time.perf_counter() - start, 3), str(target))

    def _write(self, predictor: "Predictor", work: PlannedCase, target: Path) -> None:
        from zoo.inference.structure_volumes import write_volumes

        inputs = input_words(work)
        result = predictor(work.images, tabular=work.tabular)
        target.parent.mkdir(parents=True, exist_ok=True)
        sidecar(target).unlink(missing_ok=True)
        voxels = np.asanyarray(result.dataobj)
        image.write(target, (voxels != 0).astype(np.uint8) if self.recipe.kind == "mask" else voxels, result)
        if self.recipe.kind != "probseg":
            write_volumes(target.with_name(f"{Path(work.target).name}_volumes.tsv"), result, predictor.card)
        words = _sidecar_words(self.recipe, image.spacing_mm(result.affine).tolist()) | inputs
        words["SpatialReference"] = work.sources[0]
        files.write_whole(sidecar(target), (json.dumps(words, indent=2, ensure_ascii=False) + "\n").encode())


def _sidecar_words(recipe: CohortRecipe, spacing_mm: Iterable[float]) -> dict[str, Any]:
    card = recipe.card
    labels = [card.output.labels[index].name for index in sorted(card.output.labels)]
    of_kind: dict[str, dict[str, Any]] = {
        "mask": {"Type": SHOWN.get(recipe.structures[0], "ROI")},
        "dseg": {"Manual": False},
        "probseg": {"Manual": False, "LabelMap": labels},
    }
    grid = {"NetworkSpacingMm": list(card.input.spacing_mm)} if card.input.spacing_mm else {}
    return {
        "Description": card.description,
        **of_kind[recipe.kind],
        **recipe.model_words(),
        "SpacingMm": [round(size, 6) for size in spacing_mm],
        **grid,
    }
