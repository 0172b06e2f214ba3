"""Small real scans that ship with the package; NOTICE names their sources, tools/make_samples makes them."""

from importlib import resources
from pathlib import Path

from zoo.registry import unknown

SUFFIX = "_2mm.nii.gz"


def sample(name: str = "colin27") -> Path:
    """The path of a small real scan that ships with the package.

    "colin27" is a T1-weighted head at 2 mm (the face removed), "colin27_mask" its brain and "colin27_aal" the
    AAL regions drawn on it, all on one grid of 91 x 109 x 91 voxels. AAL numbers: hippocampus 37/38, amygdala
    41/42, caudate 71/72, putamen 73/74, pallidum 75/76, thalamus 77/78; odd is left.

    Args:
        name: one of the names above.

    Returns:
        The path of a .nii.gz file.

    Raises:
        ValueError: there is no such sample; the names are listed.
    """
    folder = Path(str(resources.files("zoo.samples")))
    names = {path.name.removesuffix(SUFFIX) for path in folder.glob("*" + SUFFIX)}
    if name not in names:
        raise unknown("sample", name, names)
    return folder / (name + SUFFIX)
