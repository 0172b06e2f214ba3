"""Pairs the labels of left and right by the words in their names."""

import re
from collections.abc import Mapping, Sequence

from zoo.hub.card import Card, Label

_OTHER = {"left": "right", "right": "left", "lh": "rh", "rh": "lh", "l": "r", "r": "l"}
_WORD = re.compile(r"[A-Za-z]+")


def mirror_axes(card: Card, requested: Sequence[int]) -> tuple[int, ...]:
    """Returns the axes to mirror along: those requested, else left/right where the card says so.

    Args:
        card: of the model.
        requested: axes 0, 1, 2; empty where nothing was.

    Example:
        >>> mirror_axes(trained_models.card("unet3d.brain_structures"), ())  # doctest: +SKIP
        (0,)
    """
    return tuple(requested) or ((0,) if card.input.mirrored else ())


def partners(labels: Mapping[int, Label]) -> tuple[int, ...]:
    """Returns, for each label, the index of its left/right counterpart, matched by name; its own where it has no side.

    A side is a word of its own: left/right, lh/rh or l/r, in any case ("Left-Thalamus", "thalamus_l").

    Args:
        labels: of a card, by channel index from 0.

    Raises:
        ValueError: a label has a side and no partner.

    Example:
        >>> partners({0: Label("csf", 0), 1: Label("Left-Thalamus", 10), 2: Label("Right-Thalamus", 49)})
        (0, 2, 1)
    """
    index_of = {label.name.lower(): index for index, label in labels.items()}
    counterparts = []
    for index in sorted(labels):
        name = labels[index].name.lower()
        other = _WORD.sub(lambda word: _OTHER.get(word.group(), word.group()), name)
        if other not in index_of:
            raise ValueError(
                f"Label {labels[index].name!r} has a side, and there is no label {other!r}. Name its partner so, "
                "or predict without mirroring along axis 0."
            )
        counterparts.append(index_of[other])
    return tuple(counterparts)
