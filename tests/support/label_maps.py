"""Label maps made for tests."""

import numpy as np

from zoo.synth.anatomy.labels import INDEX, sides


def box_brain():
    """White matter in a shell of cortex and fluid, with a ventricle in a corner and a brainstem below."""
    labels = np.zeros((72, 72, 72), np.int16)
    labels[4:68, 4:68, 4:68] = INDEX["csf"]
    labels[6:66, 6:66, 6:66] = sides("cortex")[0]
    labels[9:63, 9:63, 9:63] = sides("white")[0]
    labels[12:20, 12:20, 40:60] = sides("ventricle")[0]
    labels[50:60, 50:60, 10:30] = INDEX["brainstem"]
    return labels
