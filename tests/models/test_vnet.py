import keras
import numpy as np
import pytest

from zoo.models.parts.receptive_field import receptive_field
from zoo.models.vnet import vnet

STAGES = [f"encoder_{level}_add" for level in range(5)] + [f"decoder_{level}_add" for level in (3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("variant", "total", "fields"),
    [
        ("paper", 65_183_258, (5, 22, 72, 172, 372, 476, 528, 546, 551)),
        ("released", 61_982_682, (5, 14, 48, 148, 348, 452, 488, 498, 503)),
    ],
)
def test_parameters_and_receptive_fields(variant, total, fields):
    model = vnet(variant=variant)
    assert model.count_params() == total
    assert tuple(receptive_field(model, stage) for stage in STAGES) == tuple((edge,) * 3 for edge in fields)


@pytest.mark.parametrize("labels", [1, 3, 7])
def test_parameters_of_more_labels(labels):
    """The last stage is 32 wide whatever the depth, so a shallow network shows the formula."""
    two, more = (vnet(num_classes=n, filters=(16, 32)).count_params() for n in (2, labels))
    assert more == two - 8010 + 4003 * labels + labels**2


def test_one_slope_a_channel():
    slopes = vnet(filters=(4, 6)).get_layer("encoder_1_conv_0_prelu").weights[0]
    assert slopes.shape == (1, 1, 1, 6)


def test_the_first_stage_adds_the_input_repeated():
    model = vnet(filters=(4, 6), activation="relu")
    model.get_layer("encoder_0_conv_0").kernel.assign(np.zeros((5, 5, 5, 1, 4)))
    volume = np.random.default_rng(0).normal(size=(1, 16, 24, 32, 1)).astype("float32")
    stage = keras.Model(model.input, model.get_layer("encoder_0_add").output)(volume)
    np.testing.assert_array_equal(stage, np.repeat(volume, 4, axis=-1))


def stroke(**options):
    return vnet((None, None, None, 6), filters=(4, 6, 8, 10, 12), activation="relu", any_size=True, **options)


def test_monteiros_network_drops_out_after_every_convolution():
    names = {layer.name for layer in stroke(dropout=0.1).layers}
    depths = (1, 2, 3, 3, 3)
    stages = [(f"encoder_{i}", n) for i, n in enumerate(depths)] + [
        (f"decoder_{i}", n) for i, n in enumerate(depths[:4])
    ]
    for stage, depth in stages:
        assert [f"{stage}_conv_{i}" in names for i in range(4)] == [i < depth for i in range(4)]
    convolutions = {name for name in names if "_conv_" in name and name[-1].isdigit()}
    steps = {name for name in names if name.endswith(("_up", "_down"))}
    assert {f"{name}_dropout" for name in convolutions | steps} == {name for name in names if "dropout" in name}


@pytest.mark.parametrize("sizes", [(13, 17, 22), (16, 24, 32)])
def test_monteiros_network_takes_odd_sizes(sizes):
    model = stroke(deep_supervision=True)
    shapes = [tuple(logits.shape[1:-1]) for logits in model(np.zeros((1, *sizes, 6), "float32"))]
    halved = [tuple(-(-size // 2**level) for size in sizes) for level in range(4)]
    assert shapes == halved


def test_an_odd_size_is_refused_otherwise():
    with pytest.raises(ValueError, match="vnet with 5 levels halves each axis four times: .* multiple of 16, got"):
        vnet((16, 32, 40, 1))


def test_valid_padding_sees_no_border():
    """Zeros around the volume change nothing in the part that did not see them."""
    model = vnet(filters=(2, 3), padding="valid")
    volume = np.random.default_rng(0).normal(size=(1, 38, 40, 42, 1)).astype("float32")
    small = np.asarray(model(volume))
    large = np.asarray(model(np.pad(volume, [(0, 0), (2, 2), (2, 2), (2, 2), (0, 0)])))
    assert small.shape == (1, 2, 4, 6, 2)
    np.testing.assert_allclose(large[:, 2:-2, 2:-2, 2:-2], small, atol=1e-5)


def test_an_unknown_variant_answers_with_the_nearest():
    with pytest.raises(ValueError, match=r"no variant 'papers'\. Did you mean 'paper'\? Choose from: paper, released"):
        vnet(variant="papers")
