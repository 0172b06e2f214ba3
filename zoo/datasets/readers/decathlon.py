"""The Medical Segmentation Decathlon: `dataset.json`, `imagesTr`, `labelsTr`; channels along the fourth axis.

Source: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022, 10.1038/s41467-022-30695-9.
"""

from collections.abc import Mapping
from pathlib import Path

from zoo.datasets.cases import Case, stem
from zoo.datasets.layout import read_object, require_cases
from zoo.datasets.readers import nnunet
from zoo.errors import unknown_choice

FILE = "dataset.json"


def fits(root: Path) -> bool:
    """Looks for a dataset.json with a list of training files; those of nnU-Net's first version lie apart by channel."""
    return (root / FILE).is_file() and "training" in read_object(root / FILE) and not nnunet.fits(root)


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists the training cases; the test cases of a Decathlon data set have no labels and are left out.

    Args:
        root: the folder with dataset.json.
        channels: our channel name -> name in "modality" ("FLAIR"); None takes all under their own names.
        labels: has no meaning here, since dataset.json names the label maps.

    Raises:
        ValueError: dataset.json cannot be read, a file it lists does not exist, or a modality that it does not have.
    """
    if labels is not None:
        raise ValueError(f"labels={labels!r} was given, but dataset.json names the label maps. Leave it out.")
    description = read_object(root / FILE)
    modalities = {name: int(index) for index, name in description.get("modality", {"0": "image"}).items()}
    selected = dict(channels or {name: name for name in modalities})
    for name in selected.values():
        if name not in modalities:
            raise unknown_choice("modality", name, modalities)
    volumes = {ours: modalities[theirs] for ours, theirs in selected.items()} if len(modalities) > 1 else {}
    cases = [_make_case(root, entry, selected, volumes) for entry in description["training"]]
    return require_cases(cases, root, "a list 'training' in dataset.json")


def _make_case(root: Path, entry: Mapping[str, str], selected: Mapping[str, str], volumes: dict[str, int]) -> Case:
    image, label = (_find_file(root, entry, key) for key in ("image", "label"))
    return Case(stem(image), stem(image), dict.fromkeys(selected, image), label, volumes=dict(volumes))


def _find_file(root: Path, entry: Mapping[str, str], key: str) -> Path:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"An entry of 'training' in {root / FILE} has no {key!r}: {entry!r}. Add it.")
    path = root / entry[key]
    if not path.is_file():
        raise ValueError(f"{root / FILE} lists {entry[key]!r}, and there is no such file. Unpack the data set again.")
    return path
