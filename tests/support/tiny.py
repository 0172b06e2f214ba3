"""A tiny builder and its card, for the tests of cards, weights and fetching."""

from zoo.hub.card import Card, Channel, Input, Label, Output, Step, Training

ARGUMENTS = {"input_shape": (None, None, None, 2), "num_classes": 3, "filters": 4}


def tiny(
    input_shape=(None, None, None, 1),
    num_classes=2,
    *,
    filters=4,
    activation="relu",
    dropout=0.1,
    swap=False,
    name="tiny",
):
    """Two branches of equal shapes, batch norm, a seeded dropout, two nested models with equal inner names."""
    import keras
    from keras import layers

    def branch(title):
        inputs = keras.Input((None, None, None, filters), name=f"{title}_input")
        x = layers.Conv3D(filters, 3, padding="same", name="conv")(inputs)
        return keras.Model(inputs, layers.BatchNormalization(name="norm")(x), name=title)

    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv3D(filters, 3, padding="same", activation=activation, name="stem")(inputs)
    x = layers.Dropout(dropout, seed=1, name="drop")(x)
    titles = ("right", "left") if swap else ("left", "right")
    made = {title: branch(title)(x) for title in titles}
    x = layers.Subtract(name="difference")([made[title] for title in titles])
    x = layers.Rescaling(-1.0 if swap else 1.0, name="sign")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name="bend")(x)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1, name="head")(x), name=name)


def scrambled(model, seed=0):
    """The model with every weight drawn anew, so that no two layers are alike."""
    import numpy as np

    draw = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(0.5 + 0.5 * draw.random(variable.shape))
    return model


def tiny_card(**changes) -> Card:
    """A card without what is measured."""
    fields = {
        "name": "tiny.test",
        "version": "1.0.0",
        "builder": "tiny",
        "arguments": ARGUMENTS,
        "task": "tests",
        "description": "Tells two branches apart.",
        "input": Input(
            (Channel("T1w", "z-score"), Channel("FLAIR", "z-score")), (16, 24, 32), (4, 4, 4), (1.0, 1.0, 2.5)
        ),
        "output": Output(
            "segmentation", "softmax", {0: Label("background", 0), 1: Label("left", 17), 2: Label("right", 53)}
        ),
        "training": Training("noise", "CC0-1.0", True, "zoo train tiny", "0123abc", 0, "CPU", 10, 0.5),
        "licence": "Apache-2.0",
        "intended_use": "Tests.",
        "limits": ("Sees nothing.",),
        "changelog": {"1.0.0": "First."},
        "preprocessing": (Step("z_score", {"mask": "nonzero"}),),
        "postprocessing": (Step("largest_component", {"labels": (1, 2)}),),
        "metrics": {"phantom": {"dice": 0.912345, "n": 3}},
        "references": ("10.48550/arXiv.1606.06650",),
    }
    return Card(**{**fields, **changes})
