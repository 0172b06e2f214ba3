"""Reads arrays from files that may be broken or hostile, and finds numbers that are not finite."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def first_not_finite(array: "np.ndarray") -> tuple[int, ...] | None:
    """Returns the index of the first NaN or infinite number of an array; None where there is none.

    Two passes over memory and no second array: cheap enough for every volume and every window.

    Args:
        array: any shape and dtype; whole numbers are always finite.

    Example:
        >>> import numpy as np
        >>> first_not_finite(np.array([[1.0, 2.0], [np.nan, np.inf]]))
        (1, 0)
    """
    import numpy as np

    if array.dtype.kind != "f" or not array.size:
        return None
    with np.errstate(invalid="ignore"):
        if math.isfinite(array.min()) and math.isfinite(array.max()):
            return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape))
