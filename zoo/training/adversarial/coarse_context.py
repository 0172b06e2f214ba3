"""Patches with what is around them: a coarse volume of the whole brain, and where in it the patch lies."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import seeds

Tensor = Any


def coarse(volume: np.ndarray, ratio: int, shape: Sequence[int]) -> np.ndarray:
    """Averages cubes of voxels, on a grid about the volume's centre.

    Args:
        volume: (x, y, z, channels).
        ratio: voxels along the edge of a cube.
        shape: cubes (x, y, z); what they do not reach is left out, and 0 is around the volume.

    Returns:
        (*shape, channels) float32.
    """
    spread = [(size * ratio - have) for size, have in zip(shape, volume.shape[:3], strict=True)]
    cut = volume[tuple(slice(max(-more // 2, 0), have - max((-more + 1) // 2, 0))
                       for more, have in zip(spread, volume.shape[:3], strict=True))]  # fmt: skip
    pads = [(max(more // 2, 0), max((more + 1) // 2, 0)) for more in spread]
    cubes = np.pad(cut.astype(np.float32), [*pads, (0, 0)])
    sizes = [part for size in shape for part in (size, ratio)]
    return cubes.reshape(*sizes, volume.shape[-1]).mean(axis=(1, 3, 5))


def positions(
    corners: np.ndarray, patch: Sequence[int], volume: Sequence[int], ratio: float, shape: Sequence[int]
) -> np.ndarray:
    """Returns the centres of patches in the coarse grid, -1 and 1 on the centres of its first and last voxels.

    Args:
        corners: (..., 3) first voxels of the patches; a tensor serves, too.
        patch: voxels (x, y, z).
        volume: voxels of the volume.
        ratio: voxels along a coarse one.
        shape: coarse voxels.

    Returns:
        (..., 3) of the kind of `corners`, float32.
    """
    middle = np.array([(n - 1) / 2 - (size - 1) / 2 for n, size in zip(patch, volume, strict=True)], np.float32)
    scale = np.array([1 / (ratio * (size - 1) / 2) for size in shape], np.float32)
    return (corners + middle) * scale


def corners(inside: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Returns the first voxels (n, 3) int32 of the patches about each voxel of a mask, moved inside the volume.

    Raises:
        ValueError: the patch is larger than the volume.
    """
    room = np.array(inside.shape) - patch
    if (room < 0).any():
        raise ValueError(f"A patch fits into its volume of {inside.shape}, got {tuple(patch)}. Pass a smaller patch.")
    return np.clip(np.argwhere(inside) - np.array(patch) // 2, 0, room).astype(np.int32)


def sampler(
    images: np.ndarray,
    inside: np.ndarray,
    *,
    size: int,
    patch: Sequence[int],
    ratio: int,
    shape: Sequence[int],
) -> Callable[[Any], tuple[tuple[Tensor, Tensor], Tensor]]:
    """Returns a function that draws batches of patches, two neighbours being the same place in two different people.

    Args:
        images: (people, x, y, z, channels) in a common space, two people at least.
        inside: (x, y, z) bool, where the patches are centred.
        size: patches a batch, even.
        patch: voxels (x, y, z).
        ratio: voxels along a coarse one.
        shape: coarse voxels.

    Returns:
        A graph function from a seed to ((coarse volumes (size, *shape, channels), positions (size, 3)),
        patches (size, *patch, channels)), all float32.

    Raises:
        ValueError: an odd size, or fewer than two people.
    """
    people = len(images)
    if size % 2 or people < 2:
        raise ValueError(
            f"A batch has pairs of one place in two people: its size is even and there are two people at least, got "
            f"{size} patches of {people} people."
        )
    places = ops.convert_to_tensor(corners(inside, patch))
    contexts = ops.convert_to_tensor(np.stack([coarse(image, ratio, shape) for image in images]).astype(np.float16))
    volumes = ops.convert_to_tensor(images)

    def sample(seed: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        index = _draw_below(seed, places.shape[0], size // 2, 1)
        first = _draw_below(seed, people, size // 2, 2)
        second = (first + 1 + _draw_below(seed, people - 1, size // 2, 3)) % people
        person = ops.reshape(ops.stack([first, second], axis=1), (-1,))
        start = ops.repeat(ops.take(places, index, axis=0), 2, axis=0)
        around = ops.cast(ops.take(contexts, person, axis=0), "float32")
        place = positions(ops.cast(start, "float32"), patch, images.shape[1:4], ratio, shape)
        return (around, place), cut(volumes, person, start, patch)

    return sample


def _draw_below(seed: Any, limit: int, size: int, stream: int) -> Tensor:
    """Draws (size,) int32 numbers, each from 0 to limit - 1 as likely."""
    return ops.cast(ops.floor(limit * seeds.uniform(seed, (size,), stream)), "int32")


def cut(volumes: Tensor, person: Tensor, start: Tensor, patch: Sequence[int]) -> Tensor:
    """Cuts patches from volumes.

    Args:
        volumes: (people, x, y, z, channels).
        person: (n,) int32, whose.
        start: (n, 3) int32, first voxels.
        patch: voxels (x, y, z).

    Returns:
        (n, *patch, channels) float32.
    """
    sizes = (1, *patch, volumes.shape[-1])
    patches = [
        ops.slice(volumes, (person[n], start[n, 0], start[n, 1], start[n, 2], 0), sizes) for n in range(person.shape[0])
    ]
    return ops.cast(ops.concatenate(patches, axis=0), "float32")
