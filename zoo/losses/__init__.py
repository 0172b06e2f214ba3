"""Losses on tensors, from logits, in keras.ops: functions of `(y_true, y_pred)`, and two classes that compose them.

Every function takes logits `y_pred` (batch, x, y, z, classes), any float dtype, and computes in float32. One class
means a sigmoid, more mean a softmax with background first. `y_true` is a label map (batch, x, y, z, 1) or one-hot (or
soft) of as many channels as `y_pred`; a label outside the classes of `y_pred` counts for none of them. The losses for
one kind of lesion (those that say "foreground") join all classes but the background. All take `mask` (batch, x, y, z,
1), 1 where a voxel counts and 0 in padding; voxels outside it change neither value nor gradient. Each returns one
value for each sample, float32 (batch,), finite and with finite gradients for empty masks as well.

`compile(loss=dice)` works directly; options, sums and masks go through `Combined`.
"""

from zoo.losses.composition import Combined, DeepSupervision, supervision_weights
from zoo.losses.constraints import boundary, location_penalty, signed_distance_mm, size_penalty
from zoo.losses.entropy import binary_cross_entropy, cross_entropy, focal
from zoo.losses.instances import blob, component_penalty, label_components
from zoo.losses.region import (
    dice,
    dice_cross_entropy,
    generalised_dice,
    negative_dice,
    tversky,
    two_class_dice,
)
from zoo.losses.source_posterior import (
    count_entropy,
    location_cross_entropy,
    location_focal,
    location_regression,
    location_weighted_entropy,
    moment_misalignment,
)

__all__ = [
    "Combined",
    "DeepSupervision",
    "binary_cross_entropy",
    "blob",
    "boundary",
    "component_penalty",
    "count_entropy",
    "cross_entropy",
    "dice",
    "dice_cross_entropy",
    "focal",
    "generalised_dice",
    "label_components",
    "location_cross_entropy",
    "location_focal",
    "location_penalty",
    "location_regression",
    "location_weighted_entropy",
    "moment_misalignment",
    "negative_dice",
    "signed_distance_mm",
    "size_penalty",
    "supervision_weights",
    "tversky",
    "two_class_dice",
]
