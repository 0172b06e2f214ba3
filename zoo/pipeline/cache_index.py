"""Records where the arrays of a prepared case lie among the bytes of a cache."""

from dataclasses import dataclass, field
from typing import Any

from zoo.volumes.intensity import Line

ALIGNMENT = 64  # bytes; TensorFlow takes slices of aligned memory as they are, and copies others


def padded(num_bytes: int) -> int:
    """Rounds up to the next multiple of `ALIGNMENT`."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Block:
    """One array: the name of its dtype, and its first byte, counted from the start of its file or buffer."""

    dtype: str
    at: int


@dataclass(frozen=True)
class Entry:
    """One case in a cache.

    Attributes:
        id: of the case.
        shape: voxels along x, y, z.
        channels: where each channel lies.
        lines: intensity line of each channel.
        labels: where the class indices lie, None where there are none.
        places: class index -> (at, count) of its remembered voxel indices: bytes in a file, elements in memory.
        tabular: the conditioning vector.
        file: the shard, empty in memory.
        num_bytes: size of the shard.
    """

    id: str
    shape: tuple[int, int, int]
    channels: tuple[Block, ...]
    lines: tuple[Line, ...]
    labels: Block | None
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    tabular: tuple[float, ...] = ()
    file: str = ""
    num_bytes: int = 0


def from_plain(plain: dict[str, Any]) -> Entry:
    """Restores an entry from its plain form, made by `dataclasses.asdict` and JSON.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    places = {int(index): (int(at), int(count)) for index, (at, count) in plain["places"].items()}
    changes = {
        "shape": tuple(plain["shape"]),
        "channels": tuple(Block(**block) for block in plain["channels"]),
        "lines": tuple(Line(**line) for line in plain["lines"]),
        "labels": Block(**plain["labels"]) if plain["labels"] else None,
        "places": places,
        "tabular": tuple(plain["tabular"]),
    }
    return Entry(**{**plain, **changes})
