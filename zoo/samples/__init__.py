"""Small real recordings that ship with the package; NOTICE names their sources, tools/make_*sample* makes them."""

from importlib import resources
from pathlib import Path

from zoo.errors import unknown_choice

SUFFIXES = ("_2mm.nii.gz", "_raw.fif.gz")


def sample(name: str = "colin27") -> Path:
    """Returns the path of a small real scan or recording that ships with the package.

    "colin27" is a T1-weighted head at 2 mm (the face removed), "colin27_mask" its brain and "colin27_aal" the
    AAL regions drawn on it, all on one grid of 91 x 109 x 91 voxels. AAL numbers: hippocampus 37/38, amygdala
    41/42, caudate 71/72, putamen 73/74, pallidum 75/76, thalamus 77/78; odd is left. "absence" is a minute of a
    child's sleep EEG, 19 channels of the 10-20 system, 200 Hz, V, with four annotated discharges (mne's format).

    Args:
        name: one of the names above.

    Returns:
        The path of a .nii.gz file, or of a .fif.gz file.

    Raises:
        ValueError: there is no such sample; the names are listed.

    Example:
        >>> sample("colin27").name
        'colin27_2mm.nii.gz'
    """
    folder = Path(str(resources.files("zoo.samples")))
    paths = {path.name.removesuffix(end): path for end in SUFFIXES for path in folder.glob("*" + end)}
    if name not in paths:
        raise unknown_choice("sample", name, set(paths))
    return paths[name]
