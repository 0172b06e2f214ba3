import keras
import numpy as np
import pytest

from zoo.models.parts.layers import Fold, Unfold
from zoo.models.parts.receptive_field import receptive_field
from zoo.models.resunet import resunet
from zoo.models.unet3d import unet3d
from zoo.models.vnet import vnet

DEEPBRAIN = {
    "filters": (8, 16, 32, ()),
    "decoder_filters": ((8,), (16,), (32,)),
    "up_filters": (8, 16, 32),
    "up_kernel_size": 3,
    "up_bias": False,
    "norm": "none",
}


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def closed_form(b, channels, classes):
    return 18618 * b**2 + (27 * channels + 2 * classes + 73) * b + classes


@pytest.mark.parametrize(("channels", "classes"), [(3, 3), (1, 2)])
@pytest.mark.parametrize("b", [4, 32])
def test_parameters_of_the_paper(b, channels, classes):
    filters = tuple((width, 2 * width) for width in (b, 2 * b, 4 * b, 8 * b))
    model = unet3d((None, None, None, channels), classes, filters=filters, norm="none", up_bias=False)
    assert model.count_params() == closed_form(b, channels, classes)
    assert closed_form(32, 3, 3) == 19_069_955


@pytest.mark.parametrize(("labels", "train", "total"), [(3, 19_075_523, 19_080_195), (1, 19_073_665, 19_078_337)])
def test_parameters_with_all_biases_and_batch_norm(labels, train, total):
    model = unet3d((None, None, None, labels), labels)
    assert (trainable(model), model.count_params()) == (train, total)


def test_valid_padding_maps_the_sizes_of_the_paper():
    model = unet3d((132, 132, 116, 3), 3, filters=((2, 4), (4, 8), (8, 8), (8, 16)), padding="valid")
    assert model.output_shape == (None, 44, 44, 28, 3)


def test_receptive_field_of_the_paper():
    """Three levels of two 3x3x3 convolutions and a pooling of 2 lead down, as many convolutions back up."""
    model = unet3d(filters=(2, 2, 2, 2))
    down = [4, 1, 8, 2, 16, 4, 32]
    assert receptive_field(model, "encoder_3_conv_1_norm") == (1 + sum(down),) * 3
    up = [4, 16, 2, 8, 1, 4]
    assert receptive_field(model) == (1 + sum(down) + sum(up),) * 3


def test_what_valid_padding_computes_is_the_centre_of_what_padding_computes():
    settings = {"filters": (3, 4), "norm": "none"}  # deeper, the pooling grids are out of step
    padded, valid = unet3d(**settings), unet3d(padding="valid", **settings)
    valid.set_weights(padded.get_weights())
    volume = np.random.default_rng(0).normal(size=(1, 24, 28, 36, 1)).astype("float32")
    small, large = np.asarray(valid(volume)), np.asarray(padded(volume))
    assert small.shape == (1, 8, 12, 20, 2)
    np.testing.assert_allclose(small, large[:, 8:-8, 8:-8, 8:-8], atol=1e-5)


def test_the_published_brain_mask_network_can_be_told():
    model = unet3d((None, None, None, 1), 1, **DEEPBRAIN)
    assert model.count_params() == 171_465
    assert model.get_layer("decoder_2_up").kernel.shape == (3, 3, 3, 32, 32)
    assert model.get_layer("decoder_1_up").kernel.shape == (3, 3, 3, 16, 32)


def test_concatenation_puts_what_came_up_first():
    model = unet3d(filters=(3, 5))
    up, skip = model.get_layer("decoder_0_concat").input
    assert (up.shape[-1], skip.shape[-1]) == (5, 3)


def test_decoder_filters_without_the_right_number_of_levels():
    with pytest.raises(ValueError, match='"decoder_filters" needs as many entries, got 3. Leave the bottom out'):
        unet3d(filters=(2, 2, 2), decoder_filters=(2, 2, 2))


@pytest.mark.parametrize("sizes", [(15, 17, 21), (16, 24, 32), (1, 2, 3)])
def test_any_size_gives_its_own_size(sizes):
    model = unet3d(filters=(2, 3, 4), any_size=True)
    assert model(np.zeros((1, *sizes, 1), "float32")).shape == (1, *sizes, 2)


def test_any_size_changes_nothing_where_sizes_fit():
    model, strict = unet3d(filters=(2, 3, 4), any_size=True), unet3d(filters=(2, 3, 4))
    strict.set_weights(model.get_weights())
    volume = np.random.default_rng(0).normal(size=(1, 16, 24, 32, 1)).astype("float32")
    np.testing.assert_allclose(model(volume), strict(volume), atol=1e-6)


def test_static_and_open_heads_are_float32_in_mixed_precision_only_at_the_end():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = unet3d(filters=(2, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("decoder_0_conv_1").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"


@pytest.mark.parametrize(("factor", "sizes"), [(2, (4, 6, 8)), (3, (3, 6, 9))])
def test_folding_puts_each_cube_into_one_voxel_and_unfolding_takes_it_out(factor, sizes):
    volume = np.random.default_rng(0).normal(size=(2, *sizes, 3)).astype("float32")
    folded = keras.ops.convert_to_numpy(Fold(factor)(volume))
    x, y, z = (size // factor for size in sizes)
    cubes = volume.reshape(2, x, factor, y, factor, z, factor, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    np.testing.assert_array_equal(folded, cubes.reshape(2, x, y, z, factor**3 * 3))
    np.testing.assert_array_equal(Unfold(factor)(folded), volume)
    assert Fold(factor).compute_output_shape((None, *sizes, 3)) == (None, x, y, z, factor**3 * 3)
    assert Unfold(factor).compute_output_shape((2, None, y, z, factor**3)) == (2, None, y * factor, z * factor, 1)


def test_a_folded_network_is_the_plain_one_between_its_ends():
    model = unet3d((None, None, None, 2), 3, filters=(4, 6, 8), fold=2, deep_supervision=True)
    assert model.get_layer("encoder_0_conv_0").kernel.shape == (3, 3, 3, 16, 4)
    assert model.get_layer("logits").kernel.shape == (1, 1, 1, 4, 24)
    logits, lower = model(np.zeros((1, 8, 16, 24, 2), "float32"))
    assert logits.shape == (1, 8, 16, 24, 3) and logits.dtype == "float32"
    assert lower.shape == (1, 4, 8, 12, 3)
    assert receptive_field(unet3d(filters=((4,), (4,)), fold=2)) == (22, 22, 22)


def test_folds_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a multiple of 4, got \(6, 8, 8\)"):
        unet3d((6, 8, 8, 1), filters=(4, 6), fold=2)
    with pytest.raises(ValueError, match='"fold" is the edge of a cube of voxels, 1 for none, got 0. Pass 2.'):
        unet3d(filters=(4, 6), fold=0)
    for build in (unet3d, vnet, resunet):
        for options in ({"padding": "valid"}, {"any_size": True}):
            with pytest.raises(ValueError, match="Leave these out, or pass fold=1"):
                build((None, None, None, 2), filters=(4, 6), fold=2, **options)
    with pytest.raises(ValueError, match="Folded voxels have no context yet, got fold=2 and context=2"):
        unet3d((None, None, None, 2), filters=(4, 6), fold=2, context=2)
