"""Finds the cases that a caller names, and matches their images against the channels of a card."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

from zoo.arrays import first_not_finite
from zoo.datasets.cases import Case
from zoo.datasets.images import picture
from zoo.datasets.left_out import tell_once
from zoo.errors import unknown_choice
from zoo.hub import result_record
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.volumes import image
from zoo.volumes.image import Image
from zoo.volumes.scan_files import LeftOut, Listing, describe, is_scan, list_scans, stem

LARGEST = 1e15  # a plane of squares of larger numbers overflows float32, and their mean and SD would be infinite
ADVICE = "Name .nii, .nii.gz, .mgh or .mgz files, or a folder that holds some."
RESULT_ENDS = ("", "_probabilities", "_volumes", "_lesions")  # of what `zoo predict` writes beside a scan
RECORDED = "made by zoo, by the record beside it"
_BARE = (io.IOBase, np.ndarray, bytes)  # can be iterated, and hold no images
SINGLE = (str, os.PathLike, nibabel.spatialimages.SpatialImage)
SingleImage = str | os.PathLike | Image
Images = SingleImage | Sequence[SingleImage] | Mapping[str, SingleImage]
Cases = str | os.PathLike | Sequence[str | os.PathLike | Case] | Mapping[str, Images | Case]


def find_cases(cases: Cases, *, ignore: str = "", recursive: bool = False) -> dict[str, Images | Case]:
    """Lists cases by name: the file name without its suffix, the key of a dict, or the id of a case.

    What else a folder holds is told in one line on stderr, with the reasons why it is left out.

    Args:
        cases: a folder of .nii, .nii.gz, .mgh and .mgz files; or their paths; or a dict from case name to what
            `zoo.predict` takes; or cases of a data set (`zoo.datasets.cases`).
        ignore: files in a folder whose name ends so are results, not cases.
        recursive: also search the folder's sub-folders; names then begin with the sub-folder: "site-1/sub-01_T1w".

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no cases, or two of one name.

    Example:
        >>> list(find_cases(["scans/a.nii.gz", "scans/b.nii"]))
        ['a', 'b']
    """
    if isinstance(cases, Mapping):
        return dict(cases)
    if isinstance(cases, str | os.PathLike):
        return _name_scans(Path(cases), ignore, recursive=recursive)
    named: dict[str, Images | Case] = {}
    for entry in cases:
        case = entry if isinstance(entry, Case) else Path(entry)
        _add_case(named, case.id if isinstance(case, Case) else stem(case), case)
    if not named:
        raise ValueError(f"There are no cases in {cases!r}. {ADVICE}")
    return named


def _name_scans(folder: Path, ignore: str, *, recursive: bool) -> dict[str, Images | Case]:
    """Lists the scans of a folder, or the one file, by name, and tells what is left out."""
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}. {ADVICE}")
    results = tuple(f"{ignore}{end}" for end in RESULT_ENDS) if ignore else ()
    listing = list_scans(folder, recursive=recursive, results=results) if folder.is_dir() else Listing([folder])
    made = _find_results(listing) if folder.is_dir() else []
    left_out = describe([*listing.left_out, *made], folder)
    if not listing.scans:
        raise ValueError(f"There are no cases in {str(folder)!r}{f'; {left_out}' if left_out else ''}. {ADVICE}")
    if left_out:
        tell_once(f"{folder}: {left_out}")
    named: dict[str, Images | Case] = {}
    skipped = {result.path for result in made}
    for path in (path for path in listing.scans if path not in skipped):
        home = path.parent.relative_to(folder).as_posix() if recursive and folder.is_dir() else "."
        _add_case(named, stem(path) if home == "." else f"{home}/{stem(path)}", path)
    return named


def _find_results(listing: Listing) -> list[LeftOut]:
    """Lists the scans that zoo made, by the records beside them, where other scans are there, too."""
    paths = [*listing.scans, *(item.path for item in listing.left_out if is_scan(item.path))]
    records = {path: record for path in paths if (record := result_record.read(path)) is not None}
    made = {path.with_name(name) for path, record in records.items() for name in record.get("Files", [])} | set(records)
    results = [LeftOut(path, RECORDED) for path in listing.scans if path in made]
    return results if len(results) < len(listing.scans) else []


def _add_case(named: dict[str, Images | Case], name: str, case: Path | Case) -> None:
    if name in named:
        raise ValueError(
            f"Two cases are called {name!r}: {named[name]} and {case}. Pass a dict from a name of your own to path."
        )
    named[name] = case


def read_channels(images: Images, card: Card) -> list[Image]:
    """Reads and checks the images of one case, in the order of the card's channels.

    Args:
        images: one path or nibabel image; several in the card's order; or by channel name.
        card: of the trained model.

    Returns:
        One image a channel, all on one grid.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a wrong number of channels, an unknown or missing name, an image that cannot be used (as
            `zoo.volumes.image.read`), a voxel beyond `LARGEST`, or channels on different grids.
    """
    names = [channel.name for channel in card.input.channels]
    by_name = _by_name(images, names, card.name)
    channels = [_read(by_name[name], name) for name in names]
    image.check_same_grid(channels, names)
    return channels


def select_images(case: Case, card: Card) -> Images:
    """Selects the files of a case that a model takes; a channel that shares a file with others is read.

    Args:
        case: of a data set; a single channel may have another name than the model's, several may not.
        card: of the trained model.

    Raises:
        ValueError: a channel is missing, or a single one cannot be told from others.
    """
    names = [channel.name for channel in card.input.channels]
    if len(names) == 1 and names[0] not in case.channels and len(case.channels) == 1:
        names = list(case.channels)
    missing = [name for name in names if name not in case.channels]
    if missing:
        raise ValueError(
            f"{card.name} takes the channels {', '.join(names)}, and case {case.id} has {', '.join(case.channels)}: "
            f"{', '.join(missing)} is missing. Add it, or leave the case out."
        )
    files: dict[str, SingleImage] = {
        name: picture(case, name) if name in case.volumes else case.channels[name] for name in names
    }
    return files if len(names) > 1 else next(iter(files.values()))


def select_tabular(case: Case, card: Card) -> dict[str, Value]:
    """Selects the values of a case that a model takes; others in the tables of its data set are left out."""
    return {field.name: case.tabular[field.name] for field in card.input.tabular if field.name in case.tabular}


def stack(channels: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    """Turns the channels to RAS+ and stacks them.

    Args:
        channels: images on one grid.

    Returns:
        (x, y, z, channels) float32 and the (4, 4) affine in mm.

    Example:
        >>> left_handed = nibabel.Nifti1Image(np.zeros((16, 24, 32), np.float32), np.diag([-2.0, 2, 2, 1]))
        >>> volume, affine = stack([left_handed])
        >>> volume.shape, float(affine[0, 0])
        ((16, 24, 32, 1), 2.0)
    """
    turned = [image.to_ras(image.array(channel), channel.affine) for channel in channels]
    return np.stack([volume for volume, _ in turned], -1), turned[0][1]


def _by_name(images: Images, names: list[str], model: str) -> dict[str, SingleImage]:
    if isinstance(images, Mapping):
        for name in images:
            if name not in names:
                raise unknown_choice("channel", name, names)
        missing = [name for name in names if name not in images]
        if missing:
            raise ValueError(
                f"{model} takes the channels {', '.join(names)}, and {', '.join(missing)} was not given. "
                "Pass an image for each."
            )
        return dict(images)
    if not isinstance(images, Iterable | nibabel.spatialimages.SpatialImage | os.PathLike) or isinstance(images, _BARE):
        raise TypeError(
            f"{model} takes the path of an image or a nibabel image, got {type(images).__name__}. Pass the name of an "
            "open file, and for an array nibabel.Nifti1Image(array, affine)."
        )
    several: list[SingleImage] = [images] if isinstance(images, SINGLE) else list(images)
    if len(several) != len(names):
        raise ValueError(
            f"{model} takes {len(names)} channels ({', '.join(names)}), got {len(several)} images. "
            "Pass one for each, in this order or as a dict from channel name to image."
        )
    return dict(zip(names, several, strict=True))


def name_case(images: Images) -> str:
    """Returns what errors call a case: its files, where it has some.

    Example:
        >>> name_case({"T1w": "scans/a_T1w.nii.gz", "FLAIR": "scans/a_FLAIR.nii.gz"})
        'scans/a_T1w.nii.gz, scans/a_FLAIR.nii.gz'
    """
    several = images.values() if isinstance(images, Mapping) else [images] if isinstance(images, SINGLE) else images
    names = [one if isinstance(one, str | os.PathLike) else one.get_filename() for one in several]
    return ", ".join(os.fspath(name) for name in names if name) or "The image in memory"


def name_channels(images: Images, card: Card) -> list[str]:
    """Returns what warnings call each image, in the order of the card's channels: its file, where it has one."""
    names = [channel.name for channel in card.input.channels]
    by_name = _by_name(images, names, card.name)
    return [
        os.fspath(one) if isinstance(one := by_name[name], str | os.PathLike) else f"The image for {name!r}"
        for name in names
    ]


def check_normalised(volume: np.ndarray, card: Card, name: str) -> np.ndarray:
    """Returns a volume that a card's steps made, or refuses one that is not finite.

    Args:
        volume: (x, y, z, channels) float32.
        card: of the trained model.
        name: what the error calls the case.

    Raises:
        ValueError: a voxel is NaN or infinite; it is named with its channel.
    """
    place = first_not_finite(volume)
    if place is not None:
        raise ValueError(
            f"{name}: channel {card.input.channels[place[3]].name!r} is {volume[place]} at voxel {place[:3]} of the "
            "network's grid after the steps on the card. Check the range of the scan's values."
        )
    return volume


def _read(channel: SingleImage, name: str) -> Image:
    if isinstance(channel, str | os.PathLike):
        return _check_range(image.read(channel), str(channel))
    return _check_range(image.check(channel, f"The image for {name!r}"), f"The image for {name!r}")


def _check_range(channel: Image, name: str) -> Image:
    """Refuses a voxel whose square float32 cannot sum: the network would see zeros or NaN, and find nothing."""
    values = np.asanyarray(channel.dataobj)
    if max(float(values.max()), -float(values.min())) > LARGEST:
        place = np.unravel_index(int(np.argmax(np.abs(values.astype(np.float32)))), values.shape)
        voxel = tuple(int(i) for i in place)
        raise ValueError(
            f"{name} has the value {float(values[place]):g} at voxel {voxel}, and no scan has any beyond {LARGEST:g}. "
            "Replace it, or convert the scan anew."
        )
    return channel
