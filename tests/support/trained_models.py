"""Trained models that tests write into a folder: one to export, three for a BIDS data set."""

import keras

import zoo
from support import cards, networks
from zoo.hub.card import Label, Step
from zoo.hub.tabular import Tabular

LESION = {0: Label("background", 0), 1: Label("lesion", 7)}
STRUCTURES = {0: Label("background", 0), 1: Label("left", 17), 2: Label("right", 53)}
LESION_MODEL, PAIR_MODEL, STRUCTURE_MODEL = "unet3d.toy_lesion", "unet3d.toy_pair", "unet3d.toy_parts"
AGE = Tabular("age", "years", 18, 110, 60, 10)


def save_untrained(folder, *models):
    """Saves a fresh network for each card; returns the folder."""
    for card in models:
        zoo.save(zoo.load(card.builder, **card.arguments), folder / card.name, card)
    return folder


def bids_cards():
    """Returns cards of one channel, of two with an age beside them, and of several structures on any contrast."""
    return (
        cards.unet3d_card(LESION_MODEL, ("T1w",), LESION),
        cards.unet3d_card(PAIR_MODEL, ("T1", "FLAIR"), LESION, (AGE,)),
        cards.unet3d_card(STRUCTURE_MODEL, ("image",), STRUCTURES),
    )


def save_to_export(folder, *, channels=("T1w",), tabular=(), **changes):
    """Saves a small model with whatever an export must cope with; returns its folder."""
    fields = {
        "arguments": {"filters": (3, 4, 5), "norm": "instance", "activation": "leaky_relu"},
        "patch": (16, 12, 8),
        "divisor": (4, 4, 4),
        "preprocessing": (
            Step("clip_percentiles", {"low": 1.0, "high": 99.0}),
            Step("z_score", {"mask": "nonzero"}),
        ),
        **changes,
    }
    card = cards.unet3d_card("unet3d.small", channels, cards.PARTS, tabular, **fields)
    keras.utils.set_random_seed(1)
    network = networks.vary_weights(zoo.load("unet3d", **card.arguments))
    return zoo.save(network, folder / card.name, card, dtype="float32")
