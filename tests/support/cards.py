"""Cards for tests: of any network, of a small 3D U-Net, and one with every field filled in."""

from support.networks import TINY_ARGUMENTS
from zoo.hub.card import Card, Channel, Input, Label, Output, Step, Training
from zoo.hub.tabular import Tabular

BRAIN = {0: Label("background", 0), 1: Label("Left-Thalamus", 10), 2: Label("Right-Thalamus", 49)}
PARTS = {0: Label("background", 0), 1: Label("left_part", 10), 2: Label("right_part", 260)}
AGE_AND_SEX = (
    Tabular("age", "years", 18, 90, 50.0, 16.0),
    Tabular("sex", "", 0, 1, 0.5, 0.5, {"f": 0.0, "m": 1.0}),
)


def make_card(
    *,
    channels=("T1w",),
    tabular=(),
    labels=None,
    kind="regression",
    activation="linear",
    patch=(16, 16, 16),
    divisor=(4, 4, 4),
    spacing_mm=None,
    **changes,
) -> Card:
    """Returns the card of a network that was never trained; `changes` are fields of `Card`."""
    fields = {
        "name": "toy.test",
        "version": "1.0.0",
        "builder": "toy",
        "arguments": {},
        "task": "tests",
        "description": "A toy.",
        "input": Input(tuple(Channel(name, "any") for name in channels), patch, divisor, spacing_mm, tabular=tabular),
        "output": Output(kind, activation, labels or {}),
        "training": Training("nothing", "CC0-1.0", True, "none", "0123abc"),
        "licence": "Apache-2.0",
        "intended_use": "Tests.",
        "limits": ("Knows nothing.",),
        "changelog": {"1.0.0": "First."},
    }
    return Card(**{**fields, **changes})


def unet3d_card(name, channels, labels, tabular=(), *, arguments=None, **changes) -> Card:
    """Returns the card of a segmentation by a small U-Net that takes these channels and values."""
    fitting = {"input_shape": (None, None, None, len(channels)), "num_classes": len(labels), "filters": (2, 3)}
    fitting |= {"conditioning": 2 * len(tabular)} if tabular else {}
    fields = {
        "kind": "segmentation",
        "activation": "softmax",
        "patch": (8, 8, 8),
        "divisor": (2, 2, 2),
        "preprocessing": (Step("z_score"),),
        "arguments": fitting | (arguments or {}),
        **changes,
    }
    return make_card(name=name, builder="unet3d", channels=channels, labels=labels, tabular=tabular, **fields)


def tiny_card(**changes) -> Card:
    """Returns the card of `networks.tiny` with every field but those that `zoo.save` measures."""
    channels = Channel("T1w", "z-score"), Channel("FLAIR", "z-score")
    labels = {0: Label("background", 0), 1: Label("left", 17), 2: Label("right", 53)}
    fields = {
        "name": "tiny.test",
        "builder": "tiny",
        "arguments": TINY_ARGUMENTS,
        "description": "Tells two branches apart.",
        "input": Input(channels, (16, 24, 32), (4, 4, 4), (1.0, 1.0, 2.5)),
        "output": Output("segmentation", "softmax", labels),
        "training": Training("noise", "CC0-1.0", True, "zoo train tiny", "0123abc", 0, "CPU", 10, 0.5),
        "limits": ("Sees nothing.",),
        "preprocessing": (Step("z_score", {"mask": "nonzero"}),),
        "postprocessing": (Step("largest_component", {"labels": (1, 2)}),),
        "metrics": {"phantom": {"dice": 0.912345, "n": 3}},
        "references": ("10.48550/arXiv.1606.06650",),
    }
    return make_card(**{**fields, **changes})
