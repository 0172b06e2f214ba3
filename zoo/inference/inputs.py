"""The images that a caller names, matched against the channels of a card."""

import os
from collections.abc import Mapping, Sequence

import nibabel
import numpy as np

from zoo.datasets.cases import Case
from zoo.datasets.images import picture
from zoo.errors import unknown_choice
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.volumes import image
from zoo.volumes.image import Image

One = str | os.PathLike | Image
ONE = (str, os.PathLike, nibabel.spatialimages.SpatialImage)
Images = One | Sequence[One] | Mapping[str, One]


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
            `zoo.volumes.image.read`), or channels on different grids.
    """
    names = [channel.name for channel in card.input.channels]
    given = _by_name(images, names, card.name)
    read = [_read(given[name], name) for name in names]
    image.check_same_grid(read, names)
    return read


def of_case(case: Case, card: Card) -> Images:
    """The files of a case that a model takes; a channel that shares a file with others is read.

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
    files: dict[str, One] = {
        name: picture(case, name) if name in case.volumes else case.channels[name] for name in names
    }
    return files if len(names) > 1 else next(iter(files.values()))


def tabular_of(case: Case, card: Card) -> dict[str, Value]:
    """The values of a case that a model takes; others in the tables of its data set are left aside."""
    return {one.name: case.tabular[one.name] for one in card.input.tabular if one.name in case.tabular}


def stack(read: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    """The channels in RAS+ as one array.

    Args:
        read: images on one grid.

    Returns:
        (x, y, z, channels) float32 and the (4, 4) affine in mm.
    """
    turned = [image.to_ras(image.array(one), one.affine) for one in read]
    return np.stack([volume for volume, _ in turned], -1), turned[0][1]


def _by_name(images: Images, names: list[str], model: str) -> dict[str, One]:
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
    several: list[One] = [images] if isinstance(images, ONE) else list(images)
    if len(several) != len(names):
        raise ValueError(
            f"{model} takes {len(names)} channels ({', '.join(names)}), got {len(several)} images. "
            "Pass one for each, in this order or as a dict from channel name to image."
        )
    return dict(zip(names, several, strict=True))


def _read(one: One, name: str) -> Image:
    if isinstance(one, str | os.PathLike):
        return image.read(one)
    return image.check(one, f"The image for {name!r}")
