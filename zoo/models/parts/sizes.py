"""Computes the sizes of volume that a network takes, and the error for all others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Triple = tuple[int, int, int]
TIMES = ("never", "once", "twice", "three times", "four times", "five times", "six times")
ADVICE = 'Pad the volume or pass fewer "filters".'


@dataclass(frozen=True)
class Sizes:
    """The sizes that a network takes: `minimum` voxels or a `multiple` of voxels more, on each axis.

    Attributes:
        minimum: smallest size in voxels, (x, y, z).
        multiple: step from one fitting size to the next in voxels, (x, y, z).
        rule: first half of the error, up to "got".
        advice: second half of the error, what to do.
    """

    minimum: Triple
    multiple: Triple
    rule: str
    advice: str = ADVICE

    def check(self, shape: Sequence[int | None]) -> None:
        """Checks that a volume fits; open axes pass.

        Args:
            shape: (x, y, z) in voxels, None where open.

        Raises:
            ValueError: an axis does not fit; the message says which sizes do.
        """
        for size, minimum, multiple in zip(shape, self.minimum, self.multiple, strict=True):
            if size is not None and (size < minimum or (size - minimum) % multiple):
                got = ", ".join("None" if size is None else str(size) for size in shape)
                raise ValueError(f"{self.rule}, got ({got}). {self.advice}")


def level_strides(strides: Sequence[int | Sequence[int]] | None, halvings: int) -> tuple[Triple, ...]:
    """Returns one (x, y, z) stride for each step down.

    Args:
        strides: one entry for each step down, an int for all axes or (x, y, z); None for 2 everywhere.
        halvings: number of steps down.

    Raises:
        ValueError: the number of entries is not the number of steps down, or an entry is no stride.
    """
    entries = (2,) * halvings if strides is None else tuple(strides)
    if len(entries) != halvings:
        raise ValueError(
            f'{halvings + 1} levels step down {TIMES[min(halvings, 6)]}: "strides" needs {halvings} '
            f"entries, got {len(entries)}. Pass one int or (x, y, z) for each step down."
        )
    return tuple(_parse_stride(entry) for entry in entries)


def _parse_stride(entry: int | Sequence[int]) -> Triple:
    triple = (entry,) * 3 if isinstance(entry, int) else tuple(entry)
    if len(triple) != 3 or not all(isinstance(step, int) and step > 0 for step in triple):
        raise ValueError(
            f'An entry of "strides" is one positive int or three of them, (x, y, z), got {entry!r}. '
            "Pass for example (2, 2, 1) to leave the third axis alone."
        )
    return triple


def strides_by_spacing(spacing_mm: Sequence[float], steps: int) -> tuple[Triple, ...]:
    """Returns strides that keep an axis of thick slices until the other axes are within a factor 2 of it.

    Args:
        spacing_mm: voxel size along x, y, z.
        steps: steps down.

    Source: Isensee et al., Nature Methods 2021, doi 10.1038/s41592-020-01008-z, the same rule for pooling.
    """
    sizes, strides = [float(size) for size in spacing_mm], []
    for _ in range(steps):
        x, y, z = (2 if size < 2 * min(sizes) else 1 for size in sizes)
        strides.append((x, y, z))
        sizes = [size * by for size, by in zip(sizes, (x, y, z), strict=True)]
    return tuple(strides)


def divisor(strides: Iterable[Triple]) -> Triple:
    """Returns the divisor of every size, (x, y, z), under "same" padding."""
    steps = list(strides)
    return math.prod(s[0] for s in steps), math.prod(s[1] for s in steps), math.prod(s[2] for s in steps)


def same_sizes(name: str, strides: Sequence[Triple], levels: int | None = None) -> Sizes:
    """Returns the sizes of an encoder and decoder with "same" padding: multiples of the divisor.

    Args:
        name: the network, for the error.
        strides: one (x, y, z) for each step down.
        levels: number of levels to name; None for one more than steps down.
    """
    steps = divisor(strides)
    rule = f"{_describe_steps(name, strides, levels)}: every size must be a multiple of "
    return Sizes(steps, steps, rule + _format_voxels(steps))


def folded_sizes(name: str, fold: int, strides: Sequence[Triple]) -> Sizes:
    """Returns the sizes of a network that folds cubes of voxels into channels before its first level.

    Args:
        name: the network, for the error.
        fold: edge of a cube in voxels; 1 for none.
        strides: one (x, y, z) for each step down.

    Raises:
        ValueError: `fold` is no edge of a cube.
    """
    if not isinstance(fold, int) or fold < 1:
        raise ValueError(f'"fold" is the edge of a cube of voxels, 1 for none, got {fold!r}. Pass 2.')
    if fold == 1:
        return same_sizes(name, strides)
    steps = divisor([(fold,) * 3, *strides])
    rule = f"{name} folds {fold} voxels of each axis into channels before its {len(strides) + 1} levels"
    return Sizes(steps, steps, f"{rule}: every size must be a multiple of {_format_voxels(steps)}")


def level_of_context(context: int, strides: Sequence[Triple]) -> int:
    """Finds the level whose voxels are as large as those of surroundings `context` times as wide.

    Args:
        context: how many times as wide.
        strides: one (x, y, z) for each step down.

    Raises:
        ValueError: no level below the first has such voxels along all axes.
    """
    reached = [divisor(strides[: level + 1]) for level in range(len(strides))]
    if (context,) * 3 not in reached:
        right = ", ".join(str(x) for x, y, z in reached if x == y == z and x > 1) or "none with these strides"
        raise ValueError(
            f'"context" is the stride of a level, which its surroundings join: {right}; got {context}. Change it, or '
            '"filters" or "strides".'
        )
    return 1 + reached.index((context,) * 3)


def context_sizes(name: str, context: int, sizes: Sizes) -> Sizes:
    """Returns those of the sizes whose surroundings are centred on the voxels of the level that they join.

    Args:
        name: the network, for the error.
        context: how many times as wide the surroundings are.
        sizes: without them.
    """
    x, y, z = (math.lcm(by, 2 * context) for by in sizes.multiple)
    rule = (
        f"{name} with a context {context} times as wide: every size must be a multiple of {_format_voxels((x, y, z))}"
    )
    return Sizes((x, y, z), (x, y, z), rule)


def valid_sizes(
    name: str, strides: Sequence[Triple], down: Sequence[int], up: Sequence[int], between: int = 0
) -> Sizes:
    """Returns the sizes of an encoder and decoder with "valid" padding: every step down must divide evenly.

    Args:
        name: the network, for the error.
        strides: one (x, y, z) for each step down.
        down: voxels that each level of the encoder takes from an axis, the bottom last.
        up: voxels that each level of the decoder takes from an axis, the top first.
        between: voxels that a step down takes before it strides.
    """
    smallest = [_smallest_size([s[axis] for s in strides], down, up, between) for axis in range(3)]
    minimum = (smallest[0], smallest[1], smallest[2])
    steps = divisor(strides)
    rule = f"{_describe_steps(name, strides)} without padding: every size must be {_format_voxels(minimum)}"
    return Sizes(minimum, steps, f"{rule} or a multiple of {_format_voxels(steps)} more")


def any_sizes() -> Sizes:
    """Returns the sizes of a network that takes every size from one voxel on."""
    return Sizes((1, 1, 1), (1, 1, 1), "every size must be at least 1")


def _smallest_size(strides: Sequence[int], down: Sequence[int], up: Sequence[int], between: int) -> int:
    size = 1  # at the output; walk back through the decoder to the bottom, then up the encoder
    for taken, stride in zip(up, strides, strict=True):
        size = math.ceil((size + taken) / stride)
    size += down[-1]
    for taken, stride in zip(reversed(down[:-1]), reversed(strides), strict=True):
        size = size * stride + between + taken
    return size


def _describe_steps(name: str, strides: Sequence[Triple], levels: int | None = None) -> str:
    subject = f"{name} with {levels or len(strides) + 1} levels"
    if all(step == (2, 2, 2) for step in strides) and len(strides) < len(TIMES):
        return f"{subject} halves each axis {TIMES[len(strides)]}"
    return f"{subject} divides the axes by {divisor(strides)}"


def _format_voxels(triple: Triple) -> str:
    return str(triple[0]) if len(set(triple)) == 1 else str(triple)
