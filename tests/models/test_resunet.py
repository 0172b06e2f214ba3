import numpy as np
import pytest

from zoo.models.parts.receptive_field import receptive_field
from zoo.models.resunet import resunet


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ((64, 128, 256, 512), 23_777_473),
        ((32, 64, 128, 256), 5_947_489),
        ((16, 32, 64, 128, 256), 5_996_977),
    ],
)
def test_trainable_parameters(filters, count):
    model = resunet(num_classes=1, filters=filters)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == count


def test_the_first_unit_has_no_pre_activation():
    names = [layer.name for layer in resunet(filters=(4, 6)).layers]
    assert "encoder_0_before_0_norm" not in names
    assert {"encoder_0_before_1_norm", "encoder_1_before_0_norm", "decoder_0_before_0_norm"} <= set(names)


def test_stepping_down_is_in_the_first_convolution_of_a_unit():
    model = resunet(filters=(4, 6), strides=((2, 2, 1),))
    assert model.get_layer("encoder_1_conv_0").strides == (2, 2, 1)
    assert model.get_layer("encoder_1_project").strides == (2, 2, 1)
    assert receptive_field(model, "encoder_1_add") == (11, 11, 9)


def test_a_unit_of_unchanged_shape_projects_nothing():
    projections = [layer.name for layer in resunet((16, 24, 32, 4), filters=(4, 4)).layers if "project" in layer.name]
    assert projections == ["encoder_1_project", "decoder_0_project"]


def test_options_of_resunet_plus_plus_add_their_layers():
    plain, plus = (
        {layer.name for layer in resunet(filters=(4, 6), squeeze_excite=on, aspp=on, attention=on).layers}
        for on in (False, True)
    )
    assert plain < plus
    assert {"encoder_1_excited", "bottom_rates", "top_rates", "decoder_0_gated"} <= plus - plain
    assert resunet(filters=(4, 6), aspp=True).get_layer("bottom_rate_4").dilation_rate == (4, 4, 4)


@pytest.mark.parametrize("sizes", [(15, 17, 22), (16, 24, 32)])
def test_odd_sizes(sizes):
    model = resunet(filters=(2, 3, 4), any_size=True, attention=True)
    assert model(np.zeros((1, *sizes, 1), "float32")).shape == (1, *sizes, 2)


def test_valid_padding_sees_no_border():
    model = resunet(filters=(2, 3, 4), padding="valid")
    volume = np.random.default_rng(0).normal(size=(1, 38, 42, 46, 1)).astype("float32")
    small = np.asarray(model(volume))
    large = np.asarray(model(np.pad(volume, [(0, 0), (4, 4), (4, 4), (4, 4), (0, 0)])))
    assert small.shape == (1, 4, 8, 12, 2)
    np.testing.assert_allclose(large[:, 4:-4, 4:-4, 4:-4], small, atol=1e-5)
