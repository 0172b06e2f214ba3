"""Defines the label scheme of every anatomy: one integer per structure, left and right separate."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        index: value in a label map.
        name: of the structure, with `left_` or `right_` before it where it has a side.
        code: FreeSurfer's value (`FreeSurferColorLUT.txt`); -1 where FreeSurfer has none.
        partner: index of the same structure on the other side; its own index where it has no side.
    """

    index: int
    name: str
    code: int
    partner: int


# (name, code) without a side, (name, left code, right code) with one. The order is the scheme: never reorder.
_STRUCTURES: tuple[tuple[str, int] | tuple[str, int, int], ...] = (
    ("background", 0),
    ("csf", 24),
    ("ventricle", 4, 43),
    ("cortex", 3, 42),
    ("white", 2, 41),
    ("cerebellum_cortex", 8, 47),
    ("cerebellum_white", 7, 46),
    ("brainstem", 16),
    ("thalamus", 10, 49),
    ("caudate", 11, 50),
    ("putamen", 12, 51),
    ("pallidum", 13, 52),
    ("hippocampus", 17, 53),
    ("amygdala", 18, 54),
    ("accumbens", 26, 58),
    ("ventral_diencephalon", 28, 60),
    ("substantia_nigra", 27, 59),
    ("red_nucleus", -1, -1),
    ("dentate", -1, -1),
    ("skull", 165),
    ("scalp", 120),
    ("soft_tissue", 127),
    ("eye", 134),
    ("third_ventricle", 14),
    ("fourth_ventricle", 15),
    ("inferior_ventricle", 5, 44),
    ("choroid", 31, 63),
    ("inferior_choroid", 137, 164),
    ("optic_chiasm", 85),
    ("vessel", 30, 62),
    ("lesion", 25, 57),
    # Of the head, by the codes of SynthSeg's label maps.
    ("vein", 514),
    ("spinal_cord", 512),
    ("cortical_bone", 515),
    ("marrow", 516),
    ("mucosa", 509),
    ("eye_muscle", 508),
    ("optic_nerve", 530),
    ("air", 502),
    ("skin", 511),
)
_HEAD = (
    *("skull", "scalp", "soft_tissue", "eye", "vein", "spinal_cord", "cortical_bone", "marrow", "mucosa"),
    *("eye_muscle", "optic_nerve", "air", "skin"),
)


def _make_table() -> tuple[Label, ...]:
    table: list[Label] = []
    for name, *codes in _STRUCTURES:
        first = len(table)
        if len(codes) == 1:
            table.append(Label(first, name, codes[0], first))
        else:
            table.append(Label(first, f"left_{name}", codes[0], first + 1))
            table.append(Label(first + 1, f"right_{name}", codes[1], first))
    return tuple(table)


LABELS = _make_table()
NUM_LABELS = len(LABELS)
INDEX = {label.name: label.index for label in LABELS}
# Label after a left-right mirror; class shared by both sides of a structure (both look alike in every contrast).
PARTNERS = np.array([label.partner for label in LABELS], np.int32)
CLASSES = np.unique(np.minimum(PARTNERS, np.arange(NUM_LABELS)), return_inverse=True)[1].astype(np.int32)
HEAD = tuple(INDEX[name] for name in _HEAD)
BRAIN = tuple(label.index for label in LABELS if label.index not in (*HEAD, INDEX["background"], INDEX["csf"]))


def sides(name: str) -> tuple[int, ...]:
    """Returns the indices of a structure: left and right, or the only one.

    Args:
        name: a structure without its side, `"putamen"`.

    Raises:
        ValueError: the scheme has no such structure.
    """
    indices = tuple(label.index for label in LABELS if label.name.removeprefix("left_").removeprefix("right_") == name)
    if not indices:
        from zoo.errors import unknown_choice

        raise unknown_choice("structure", name, (entry[0] for entry in _STRUCTURES))
    return indices
