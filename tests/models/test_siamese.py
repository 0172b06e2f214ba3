import keras
import numpy as np
import pytest

from zoo.models.siamese import dense_encoder, siamese


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_parameters():
    """Convolutions of edge 5, 3, 3, 3 from 2 channels over 16, 32 and 64 to a code of 64, with biases."""
    by_hand = (125 * 2 + 1) * 16 + (27 * 16 + 1) * 32 + (27 * 32 + 1) * 64 + (27 * 64 + 1) * 64
    encoder = siamese().get_layer("encoder")
    assert encoder.count_params() == by_hand == 183_888
    assert encoder.output_shape == (None, 1, 1, 1, 64)
    assert siamese().get_layer("decoder").output_shape == (None, 15, 15, 15, 2)


def test_both_sides_share_one_encoder_and_one_decoder():
    model = siamese(filters=(4, 6, 8), code_size=5)
    a, b = noise(2, 2, 15, 15, 15, 2)
    code_a, code_b, copy_a, copy_b = model([a, b])
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    np.testing.assert_allclose(code_b, encoder(b), atol=1e-6)
    np.testing.assert_allclose(copy_a, decoder(code_a), atol=1e-5)
    swapped = model([b, a])
    np.testing.assert_allclose(swapped[0], code_b, atol=1e-6)
    np.testing.assert_allclose(swapped[3], copy_a, atol=1e-5)
    assert np.abs(code_a - code_b).max() > 0.01
    assert copy_b.shape == b.shape


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_dense_codes_are_patch_wise_codes(norm):
    model = siamese(filters=(4, 6, 8), code_size=5, norm=norm, dropout=0.2)
    for weight in model.weights:
        if "moving" in weight.path:
            weight.assign(np.linspace(0.5, 1.5, weight.shape[0]))
    volume = noise(1, 18, 21, 25, 2)
    codes = np.asarray(dense_encoder(model)(volume))
    assert codes.shape == (1, 4, 7, 11, 5)
    places = [(x, y, z) for x in (0, 1, 3) for y in (0, 2, 6) for z in (0, 5, 10)]
    patches = np.stack([volume[0, x : x + 15, y : y + 15, z : z + 15] for x, y, z in places])
    one_by_one = np.asarray(model.get_layer("encoder")(patches))[:, 0, 0, 0]
    np.testing.assert_allclose(np.stack([codes[0][place] for place in places]), one_by_one, atol=1e-4)


def test_a_dense_encoder_needs_fifteen_voxels():
    dense = dense_encoder(siamese(filters=(2, 2, 2), code_size=2))
    assert dense(np.zeros((1, 15, 16, 17, 2), "float32")).shape == (1, 1, 2, 3, 2)
    with pytest.raises(ValueError, match=r"a dense encoder reads 15 voxels a side or more, got \(14, 16, 17\)"):
        dense(np.zeros((1, 14, 16, 17, 2), "float32"))


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_dense_codes_are_refused_where_they_would_differ(norm):
    with pytest.raises(ValueError, match='got \'encoder_conv_0_norm\'. Build siamese with norm="none" or "batch"'):
        dense_encoder(siamese(filters=(4, 6, 8), norm=norm))


def test_widths_are_three():
    with pytest.raises(ValueError, match='"filters" needs 3 entries, got 2'):
        siamese(filters=(4, 6))


def test_parts_are_models():
    model = siamese(filters=(4, 6, 8))
    assert all(isinstance(model.get_layer(part), keras.Model) for part in ("encoder", "decoder"))
