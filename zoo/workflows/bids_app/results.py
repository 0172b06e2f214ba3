"""Makes the results of one case among BIDS derivatives, and recognises finished ones.

Files are written whole or not at all, and the JSON file comes last: where it is the record of the same weights,
settings and images (`zoo.hub.result_record`), and the image beside it can be read to its last byte, the case is
finished.
"""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import collect_warnings, to_line
from zoo.hub import card_file, result_record
from zoo.hub.card import Card
from zoo.hub.result_record import Origin, StaleResultError, Verdict
from zoo.volumes import image, nifti
from zoo.workflows.bids_app.plan import PlannedCase

if TYPE_CHECKING:
    from zoo.inference.predictor import Predictor
    from zoo.inference.settings import Settings

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
        """Returns the file of the image of a case."""
        return Path(self.out) / f"{work.target}_{self.kind}{SUFFIX}"

    def settings(self) -> "Settings":
        """Returns the settings of the predictor."""
        from zoo.inference.settings import Settings

        return Settings(probabilities=self.probabilities, mirror=self.mirror)

    def origin(self, work: PlannedCase) -> Origin:
        """Returns what decides the result of a case.

        Raises:
            ValueError: the card names no weights.
        """
        model = result_record.describe_model(self.card)
        return Origin(model, self.settings().as_record(), dict(work.images), work.tabular)


def is_finished(work: PlannedCase, recipe: CohortRecipe) -> bool:
    """Returns whether a case is there, whole, and made from the images that it has now.

    Raises:
        ValueError: it was made by another version of the model or in another way; what differs is named.
    """
    return _find_verdict(work, recipe) is Verdict.CURRENT and _is_whole(recipe.target(work))


def _find_verdict(work: PlannedCase, recipe: CohortRecipe) -> Verdict:
    record, target = result_record.read(recipe.target(work)), recipe.target(work)
    return Verdict.ABSENT if record is None else recipe.origin(work).judge(record, target)


def _is_whole(target: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        nifti.load(target)
        return True
    return False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: "done", "kept" or "failed", with wall time in seconds, result, error and warnings."""

    case: str
    status: str
    seconds: float | None = None
    output: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()


class Worker:
    """Makes result after result; the network is built at the first one."""

    def __init__(self, recipe: CohortRecipe) -> None:
        self.recipe = recipe

    @cached_property
    def _load_predictor(self) -> "Predictor":
        from zoo.inference.predictor import Predictor

        return Predictor(self.recipe.model, settings=self.recipe.settings())

    def __call__(self, work: PlannedCase) -> Outcome:
        """Predicts and writes one case; its faults are returned in the outcome, not raised."""
        import keras

        with keras.device(self.recipe.device) if self.recipe.device else contextlib.nullcontext():
            predictor = self._load_predictor  # what is wrong with the model is raised: it is no fault of the case
            start, target, collected = time.perf_counter(), self.recipe.target(work), list[Warning]()
            try:
                self._write(predictor, work, target, collected)
            except Exception as error:  # whatever it is, the other cases can still be done
                return Outcome(work.name, "failed", error=to_line(error), warnings=tuple(map(to_line, collected)))
        seconds = round(time.perf_counter() - start, 3)
        return Outcome(work.name, "done", seconds, str(target), warnings=tuple(map(to_line, collected)))

    def _write(self, predictor: "Predictor", work: PlannedCase, target: Path, collected: list[Warning]) -> None:
        from zoo.inference.structure_volumes import write_volumes

        with contextlib.suppress(StaleResultError):  # of other weights or settings, which is overwritten
            if _find_verdict(work, self.recipe) is Verdict.CHANGED:
                collected.append(result_record.changed_input(target))
        record = self.recipe.origin(work).as_record()
        with collect_warnings(collected):
            result = predictor(work.images, tabular=work.tabular)
            target.parent.mkdir(parents=True, exist_ok=True)
            result_record.sidecar(target).unlink(missing_ok=True)
            voxels = np.asanyarray(result.dataobj)
            image.write(target, (voxels != 0).astype(np.uint8) if self.recipe.kind == "mask" else voxels, result)
            if self.recipe.kind != "probseg":
                write_volumes(target.with_name(f"{Path(work.target).name}_volumes.tsv"), result, predictor.card)
        for entry, source in zip(record["Inputs"].values(), work.sources, strict=True):
            entry["File"] = source
        words = _sidecar_words(self.recipe, image.spacing_mm(result.affine).tolist())
        words |= {"Sources": work.sources, "SpatialReference": work.sources[0]}
        result_record.write(target, words | record, collected)


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
        "SpacingMm": [round(size, 6) for size in spacing_mm],
        **grid,
    }
