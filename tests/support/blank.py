"""The card of a network that was never trained, for tests that need a model and not what it knows."""

from zoo.hub.card import Card, Channel, Input, Output, Step, Training


def card(name, channels, labels, tabular=(), *, patch=(8, 8, 8), spacing_mm=None):
    arguments = {"input_shape": (None, None, None, len(channels)), "num_classes": len(labels), "filters": (2, 3)}
    arguments |= {"conditioning": 2 * len(tabular)} if tabular else {}
    return Card(
        name=name,
        version="1.0.0",
        builder="unet3d",
        arguments=arguments,
        task="tests",
        description="A network that knows nothing.",
        input=Input(tuple(Channel(one, "any") for one in channels), patch, (2, 2, 2), spacing_mm, tabular=tabular),
        output=Output("segmentation", "softmax", labels),
        training=Training("noise", "CC0-1.0", True, "none", "0123abc"),
        licence="Apache-2.0",
        intended_use="Tests.",
        limits=("Knows nothing.",),
        changelog={"1.0.0": "First."},
        preprocessing=(Step("z_score"),),
    )
