"""Scans in which a shipped model segments something, made of the real head that ships, on an odd grid."""

import functools

import nibabel
import numpy as np
from scipy import ndimage

import zoo
from zoo.synth.susceptibility import RANGES_PPM

TISSUES = {"fluid": (30, 110, 20), "grey": (65, 75, 75), "white": (90, 55, 60)}  # in T1, T2, FLAIR
CROP = (slice(7, 84), slice(101, 10, -1), slice(4, 86))  # the brain, front to the back


@functools.cache
def name_structures():
    """Returns the real head, and the name of the structure at each voxel without its side."""
    head = nibabel.load(zoo.sample())
    labels = np.asarray(zoo.predict("unet3d.brain_structures", head).dataobj)
    names = np.full(256, "background", object)
    for label in zoo.card("unet3d.brain_structures").output.labels.values():
        names[label.value] = label.name.removeprefix("left_").removeprefix("right_")
    return head, names[labels]


def scans_for(card):
    """Returns the channels of a card on one grid whose axes run front to back, up and to the left."""
    head = nibabel.load(zoo.sample())
    channels = [channel.name for channel in card.input.channels]
    volumes = {"Chimap": paint_susceptibility, "FLAIR": paint_lacunes}.get(
        channels[-1], functools.partial(repeat_head, card)
    )()
    turned = head.affine[:, [1, 2, 0, 3]] * [-1, 1, 1, 1]
    volumes = [np.ascontiguousarray(volume[CROP].transpose(1, 2, 0), np.float32) for volume in volumes]
    return [nibabel.Nifti1Image(volume, turned) for volume in volumes]


def repeat_head(card):
    """Returns the head for each channel, every further one brighter by one."""
    data = np.asarray(nibabel.load(zoo.sample()).dataobj, np.float32)
    return [data + np.float32(index) * (data > 0) for index in range(len(card.input.channels))]


def paint_susceptibility():
    """Paints ppm: each structure at the middle of its range, blurred, with noise, 0 outside the brain."""
    _, names = name_structures()
    chi = np.zeros(names.shape)
    for name in np.unique(names):
        chi[names == name] = np.mean(RANGES_PPM[name]) if name in RANGES_PPM else 0
    noise = np.random.default_rng(0).normal(0, 0.02, chi.shape)
    return [np.where(names == "background", 0, ndimage.gaussian_filter(chi, 0.7) + noise)]


def paint_lacunes():
    """Paints T1, T2 and FLAIR of three tissues, with balls of fluid in a bright rim, 0 outside the brain."""
    _, names = name_structures()
    fluid, white = np.isin(names, ("csf", "ventricle")), names == "white"
    deep = np.argwhere(ndimage.binary_erosion(white | np.isin(names, ("putamen", "thalamus")), iterations=3))
    draw = np.random.default_rng(1)
    centres = np.zeros(names.shape, bool)
    centres[tuple(deep[draw.choice(len(deep), 25, replace=False)].T)] = True
    distance = ndimage.distance_transform_edt(~centres)
    ball, volumes = distance < 1.8, []
    for index, rim in enumerate((80, 80, 105)):
        tissue = {name: values[index] for name, values in TISSUES.items()}
        painted = np.select(
            [fluid | ball, distance < 2.5, white], [tissue["fluid"], rim, tissue["white"]], tissue["grey"]
        )
        painted = ndimage.gaussian_filter(painted.astype(float), 0.5) + draw.normal(0, 2, names.shape)
        volumes.append(np.where(names == "background", 0, painted))
    return volumes
