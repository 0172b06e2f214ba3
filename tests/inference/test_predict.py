"""Prediction from file to file: grids, orientations, channels, labels, memory, and what is refused."""

import gzip
import io
import itertools

import keras
import nibabel
import numpy as np
import pytest
from scipy import ndimage
from support.cards import BRAIN, make_card, unet3d_card
from support.datasets import SHAPE, noise_in_air
from support.networks import identity, linear, threshold

import zoo
from zoo.hub.card import Label, Step
from zoo.inference import inputs, left_right, native_grid, preprocessing, window_memory
from zoo.inference import predict as module
from zoo.inference.predict import predict
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.volumes import intensity

ORIENTATIONS = [
    np.array(rows)[list(order)] * np.array(signs)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    for rows in [np.eye(3)]
]
OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([1.0, 1.2, 0.9]), [-20, 30, 7.5]
)


def values(result):
    return np.asanyarray(result.dataobj)


@pytest.fixture(scope="module")
def identical():
    return Predictor(identity(), card=make_card(spacing_mm=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("index", range(48))
def test_identity_in_every_orientation_bit_for_bit(index, identical):
    image = noise_in_air(affine=nibabel.affines.from_matvec(ORIENTATIONS[index], [5, -7, 11]))
    result = identical(image)
    np.testing.assert_array_equal(values(result), values(image))
    np.testing.assert_array_equal(result.affine, image.affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_identity_on_an_oblique_grid_keeps_the_header(kind, tmp_path):
    image = kind(values(noise_in_air()), OBLIQUE)
    image.set_qform(OBLIQUE, code=1)
    image.set_sform(OBLIQUE, code=2)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "in.nii.gz")
    spacing = tuple(nibabel.affines.voxel_sizes(OBLIQUE))
    predict(
        identity(),
        tmp_path / "in.nii.gz",
        card=make_card(spacing_mm=spacing),
        out=tmp_path / "out.nii.gz",
        mirror=(0, 1, 2),
    )
    result, image = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "in.nii.gz")
    assert type(result) is kind
    np.testing.assert_array_equal(values(result), values(image))
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "xyzt_units"):
        np.testing.assert_array_equal(result.header[field], image.header[field])


def test_labels_come_as_source_values_on_the_grid_of_the_image():
    model = linear([[0, -1, 1]], [0.5, 0, 0])
    data = np.zeros(SHAPE, np.float32)
    data[2:6, 3:9], data[10:14, 4:8] = -2, 2  # class 1, class 2
    image = nibabel.Nifti1Image(data, np.diag([-1, 1, 1, 1]))
    settings = make_card(labels=BRAIN, kind="segmentation", activation="softmax")
    result = predict(model, image, card=settings)
    np.testing.assert_array_equal(values(result), np.where(data < 0, 10, np.where(data > 0, 49, 0)))
    assert values(result).dtype == np.uint8
    wide = {**BRAIN, 2: Label("Right-Thalamus", 2010)}
    result = predict(model, image, card=make_card(labels=wide, kind="segmentation", activation="softmax"))
    assert values(result).dtype == np.int16 and values(result).max() == 2010
    shares = predict(model, image, card=settings, probabilities=True)
    assert shares.shape == (*SHAPE, 3) and shares.get_data_dtype() == np.float32
    np.testing.assert_allclose(values(shares).sum(-1), 1, atol=1e-6)


def test_a_sigmoid_below_one_half_is_background():
    model = linear([[10.0]], [-5.0])
    labels = {0: Label("brain", 1)}
    result = predict(model, noise_in_air(), card=make_card(labels=labels, kind="segmentation", activation="sigmoid"))
    np.testing.assert_array_equal(values(result), values(noise_in_air()) >= 0.5)


def test_mirroring_swaps_left_and_right_by_name():
    """A network that answers by place: left half left, right half right."""
    import keras
    from keras import layers, ops

    class Place(layers.Layer):
        def call(self, x):
            left = ops.cast(ops.arange(16) < 8, "float32")[None, :, None, None, None]
            left = left + 0 * x
            return ops.concatenate([0 * x, left, 1 - left], -1)

    inputs = keras.Input((16, 24, 32, 1))
    model = keras.Model(inputs, Place()(inputs))
    settings = make_card(labels=BRAIN, kind="segmentation", activation="softmax", patch=SHAPE)
    for affine in (np.eye(4), np.diag([-1.0, 1, 1, 1])):
        image = noise_in_air(affine=affine)
        plain = predict(model, image, card=settings, settings=Settings(skip=False))
        mirrored = predict(model, image, card=settings, mirror=True, settings=Settings(skip=False))
        np.testing.assert_array_equal(values(plain), values(mirrored))
        on_left = 0 if affine[0, 0] > 0 else -1
        assert values(mirrored)[on_left, 0, 0] == 10 and values(mirrored)[-1 - on_left, 0, 0] == 49


def test_partners_by_the_words_in_names():
    names = ["background", "Left-Thalamus", "right-thalamus", "brainstem", "ctx_rh", "ctx_lh", "putamen L", "putamen R"]
    labels = {index: Label(name, index) for index, name in enumerate(names)}
    assert left_right.partners(labels) == (0, 2, 1, 3, 5, 4, 7, 6)
    with pytest.raises(ValueError, match="Label 'left hand' has a side, and there is no label 'right hand'"):
        left_right.partners({0: Label("left hand", 0)})


def test_there_and_back_through_the_spacing_of_the_card():
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in SHAPE], indexing="ij")
    ramp = 5 + x + 2 * y - z * 0.5  # linear interpolation is exact on it, but for the edge
    image = nibabel.Nifti1Image(ramp, np.diag([1.0, 1.0, 2.0, 1]))
    seen = []
    settings = make_card(spacing_mm=(2.0, 1.0, 1.0))
    predictor = Predictor(identity(), card=settings)
    forward = predictor._forward
    predictor._forward = lambda windows: seen.append(windows.shape) or forward(windows)
    result = values(predictor(image))
    np.testing.assert_allclose(result[2:-2, 2:-2, 2:-2], ramp[2:-2, 2:-2, 2:-2], atol=1e-4)
    assert set(seen) == {(1, 16, 16, 16, 1)} and len(seen) == 1 * 2 * 7


def test_resize_to_a_fixed_shape_and_division_by_the_maximum():
    settings = make_card(
        preprocessing=(Step("resize", {"shape": (16, 16, 16)}), Step("maximum")),
        labels={0: Label("background", 0), 1: Label("brain", 1)},
        kind="segmentation",
        activation="softmax",
    )
    data = np.zeros((20, 32, 27), np.float32)
    data[5:15, 8:24, 6:20] = 100
    result = values(predict(threshold(), nibabel.Nifti1Image(data, OBLIQUE), card=settings))
    overlap = 2 * (result & (data > 0)).sum() / (result.sum() + (data > 0).sum())
    assert result.shape == data.shape and overlap > 0.9
    shares = values(
        predict(identity(), nibabel.Nifti1Image(data, OBLIQUE), card=make_card(preprocessing=settings.preprocessing))
    )
    positions = [(np.arange(n) - (n - 1) / 2) * 16 / n + 7.5 for n in data.shape]
    small = [(np.arange(16) - 7.5) * n / 16 + (n - 1) / 2 for n in data.shape]
    work = ndimage.map_coordinates(data / 100, np.meshgrid(*small, indexing="ij"), order=1, mode="nearest")
    work /= work.max()
    expected = ndimage.map_coordinates(work, np.meshgrid(*positions, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def test_intensities_are_measured_on_the_volume_before_tiling():
    image = noise_in_air((16, 16, 48))
    result = values(predict(identity(), image, card=make_card(preprocessing=(Step("z_score", {"mask": "nonzero"}),))))
    data = values(image)
    inside = data != 0
    expected = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.5, 0.8)])
def test_slabs_under_a_budget_give_the_same_labels(spacing_mm):
    model = linear([[0, -3, 3]], [0.6, 0.5, 0.1])
    data = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((20, 24, 32)), 2) * 8
    image = nibabel.Nifti1Image(data.astype(np.float32), np.diag([1.0, 1, 1, 1]))
    settings = make_card(labels=BRAIN, kind="segmentation", activation="softmax", spacing_mm=spacing_mm)
    whole = values(predict(model, image, card=settings))
    slabs = values(predict(model, image, card=settings, settings=Settings(memory_budget_mb=0.05)))
    assert set(np.unique(whole)) == {0, 10, 49}
    np.testing.assert_array_equal(whole, slabs)


def test_slabs_equal_whole_resampling_and_keep_to_the_budget():
    from zoo.volumes.image import resample

    work = np.random.default_rng(0).standard_normal((10, 12, 9, 2)).astype(np.float32)
    shape, scale = (21, 18, 14), np.array([2.0, 1.5, 1.5])
    plane = 18 * 14 * 2 * 4
    parts = list(native_grid.native_slabs(work, shape, scale, budget_bytes=4 * plane))
    assert [part[0].stop - part[0].start for part, _ in parts] == [4, 4, 4, 4, 4, 1]
    whole = resample(work, scale, 1.0, shape=shape)
    np.testing.assert_allclose(np.concatenate([slab for _, slab in parts]), whole, atol=1e-4)


@pytest.mark.parametrize("place", ["inside", "edge", "corner", "nowhere"])
@pytest.mark.parametrize("scale", [(2.0, 1.5, 0.7), (1.0, 1.0, 1.0), (0.5, 3.1, 1.0)])
def test_labels_made_near_structures_alone_are_those_of_the_whole_image(place, scale):
    values = np.random.default_rng(5).uniform(0, 0.3, (9, 11, 8, 3)).astype(np.float32)
    values[..., 0] += 0.5
    start = {"inside": (3, 4, 2), "edge": (0, 4, 2), "corner": (7, 9, 6), "nowhere": (9, 11, 8)}[place]
    box = tuple(slice(first, first + 3) for first in start)
    values[box] = values[box][..., ::-1]
    shape = tuple(round(size * factor) + 1 for size, factor in zip(values.shape, scale, strict=False))
    like = nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4))
    grid = native_grid.NativeGrid(like, shape, np.asarray(scale))
    card = unet3d_card("unet3d.toy", ("a",), {0: Label("none", 0), 1: Label("one", 7), 2: Label("two", 9)})
    near = native_grid.native_labels(values, grid, card, budget_bytes=4000)
    whole = native_grid.native_labels(values, grid, card, budget_bytes=4000, confidence=np.empty(shape, np.float32))
    np.testing.assert_array_equal(near.dataobj, whole.dataobj)
    assert np.any(near.dataobj) == (place != "nowhere")


def test_channels_by_name_or_in_order(tmp_path):
    model = linear([[1.0], [10.0]])
    settings = make_card(channels=("T1w", "FLAIR"))
    first, second = noise_in_air(seed=1), noise_in_air(seed=2)
    nibabel.save(second, tmp_path / "flair.nii")
    expected = values(first) + 10 * values(second)
    for images in ([first, second], {"FLAIR": tmp_path / "flair.nii", "T1w": first}):
        np.testing.assert_allclose(values(predict(model, images, card=settings)), expected, rtol=1e-5)


def test_air_is_skipped_and_stays_background():
    data = np.zeros((16, 16, 48), np.float32)
    data[4:12, 4:12, 2:10] = 1
    image = nibabel.Nifti1Image(data, np.eye(4))
    model = linear([[0, 0]], [0, 1.0])  # says brain everywhere
    settings = make_card(
        labels={0: Label("background", 0), 1: Label("brain", 1)}, kind="segmentation", activation="softmax"
    )
    predictor = Predictor(model, card=settings, settings=Settings(overlap=0.0))
    counted = []
    result = values(predictor(image, progress=lambda *x: counted.append(x)))
    assert counted == [(1, 1)]
    assert result[..., :16].all() and not result[..., 16:].any()
    assert values(predict(model, image, card=settings, settings=Settings(skip=False))).all()


def test_a_case_is_postprocessed_on_its_own_grid():
    data = np.zeros(SHAPE, np.float32)
    data[2:8, 2:8, 2:8], data[12:14, 12:14, 12:14] = 1, 1
    labels = {0: Label("background", 0), 1: Label("brain", 1)}
    settings = make_card(
        labels=labels, kind="segmentation", activation="softmax", postprocessing=(Step("largest_component"),)
    )
    result = values(predict(threshold(), nibabel.Nifti1Image(data, np.diag([1, -1, 1, 1])), card=settings))
    assert result.sum() == 216 and result[2:8, 2:8, 2:8].all()


def with_value(value):
    data = values(noise_in_air()).copy()
    data[4, 5, 6] = value
    return nibabel.Nifti1Image(data, np.eye(4))


def two_channels():
    return make_card(channels=("T1w", "FLAIR"))


REFUSED = {
    "NaN": (lambda: with_value(np.nan), "1 voxels of 12288 that are not finite (1 NaN, 0 infinite)"),
    "infinite": (lambda: with_value(np.inf), "1 voxels of 12288 that are not finite (0 NaN, 1 infinite)"),
    "zeros": (lambda: nibabel.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4)), "nothing but zeros"),
    "4D": (lambda: nibabel.Nifti1Image(np.ones((*SHAPE, 3), np.float32), np.eye(4)), "it holds 3 volumes"),
    "2D": (lambda: nibabel.Nifti1Image(np.ones((8, 8), np.float32), np.eye(4)), "a 3D volume (x, y, z) is expected"),
    "too many": (lambda: [noise_in_air(), noise_in_air()], "takes 1 channels (T1w), got 2 images"),
    "unknown channel": (lambda: {"T1": noise_in_air()}, "There is no channel 'T1'. Did you mean 'T1w'?"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_images_are_refused_with_words(what):
    make, message = REFUSED[what]
    with pytest.raises(ValueError) as caught:
        predict(identity(), make(), card=make_card())
    assert message in str(caught.value)


def test_a_singular_affine_is_refused(tmp_path):
    raw = noise_in_air().to_bytes()
    header = nibabel.Nifti1Header(raw[:348])
    header["sform_code"], header["srow_x"], header["srow_y"], header["srow_z"] = 2, [1, 0, 0, 0], [1, 0, 0, 0], 0
    (tmp_path / "flat.nii").write_bytes(header.binaryblock + raw[348:])
    with pytest.raises(ValueError, match="affine"):
        predict(identity(), tmp_path / "flat.nii", card=make_card())


def test_bad_files_are_refused_with_words(tmp_path):
    whole = gzip.compress(noise_in_air().to_bytes())
    (tmp_path / "text.nii").write_text("not an image at all" * 100)
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "broken.nii.gz").write_bytes(broken)
    for name in ("text.nii", "cut.nii.gz", "broken.nii.gz"):
        with pytest.raises(ValueError, match=name):
            predict(identity(), tmp_path / name, card=make_card())
    with pytest.raises(FileNotFoundError, match=r"There is no file .*gone\.nii"):
        predict(identity(), tmp_path / "gone.nii", card=make_card())


def test_channels_must_be_all_there_on_one_grid():
    with pytest.raises(ValueError, match=r"takes the channels T1w, FLAIR, and FLAIR was not given"):
        predict(identity(2), {"T1w": noise_in_air()}, card=two_channels())
    with pytest.raises(ValueError, match=r"takes 2 channels \(T1w, FLAIR\), got 1 images"):
        predict(identity(2), noise_in_air(), card=two_channels())
    moved = noise_in_air(affine=nibabel.affines.from_matvec(np.eye(3), [2.5, 0, 0]))
    with pytest.raises(ValueError, match=r"the same voxel is up to 2\.50 mm apart"):
        predict(identity(2), [noise_in_air(), moved], card=two_channels())
    with pytest.raises(ValueError, match="lie on different grids: .* voxels against"):
        predict(identity(2), [noise_in_air(), noise_in_air((16, 16, 16))], card=two_channels())


def test_what_does_not_fit_memory_is_said_first(monkeypatch):
    monkeypatch.setattr(window_memory, "machine_bytes", lambda: 100_000)
    monkeypatch.setattr(window_memory, "free_bytes", lambda: 100_000)
    with pytest.raises(ValueError, match=r"A window of \(64, 64, 64\) voxels .* needs about 2 MiB, and 0 MiB are free"):
        predict(identity(), noise_in_air(), card=make_card(), settings=Settings(patch=64))
    with pytest.raises(ValueError, match=r"A volume of \(16, 24, 32\) voxels and 1 classes needs 0 MiB"):
        predict(identity(), noise_in_air(), card=make_card(), settings=Settings(batch_size=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"settings": Settings(patch=(16, 18, 16))},
            "patch must be positive multiples of (4, 4, 4) for toy.test, got (16, 18, 16)",
        ),
        ({"settings": Settings(precision="float16")}, "There is no precision 'float16'. Did you mean 'bfloat16'?"),
        ({"mirror": (3,)}, "mirror_axes must be some of 0, 1, 2"),
        ({"card": None}, "A card must say what 'identity' takes and gives, got None"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as caught:
        predict(identity(), noise_in_air(), **{"card": make_card(), **settings})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([Step("resmple")], "There is no preprocessing step 'resmple'. Did you mean 'resample'?"),
        ([Step("z_scor")], "There is no intensity step 'z_scor'. Did you mean 'z_score'?"),
        ([Step("resize", {"shap": (8, 8, 8)})], "Did you mean 'shape'?"),
        ([Step("maximum"), Step("resize", {"shape": (8, 8, 8)})], "List grid steps (resample, resize) first"),
    ],
)
def test_unknown_steps_name_the_nearest(wrong, message):
    with pytest.raises(ValueError) as caught:
        predict(identity(), noise_in_air(), card=make_card(preprocessing=tuple(wrong)))
    assert message in str(caught.value)


def test_spacing_that_differs_by_rounding_is_left_alone():
    volume = values(noise_in_air())[..., None]
    card = make_card(spacing_mm=(1.0, 1.0, 1.0))
    same, spacing = preprocessing.to_work_grid(card, volume, np.array([1.0004, 0.9996, 1.0]))
    assert same is volume and spacing[0] == 1.0004
    moved, spacing = preprocessing.to_work_grid(card, volume, np.array([1.5, 1.0, 1.0]))
    assert moved.shape == (24, 24, 32, 1) and list(spacing) == [1, 1, 1]


def test_the_bar_is_silent_unless_asked(capsys):
    predict(identity(), noise_in_air(), card=make_card())
    assert capsys.readouterr().err == ""
    predict(identity(), noise_in_air(), card=make_card(), settings=Settings(progress=True))
    assert "toy.test" in capsys.readouterr().err


def test_the_public_name():
    assert zoo.predict is predict is module.predict


def test_nothing_is_found_where_all_channels_are_0():
    """A network that says 1 everywhere, on an image that is 0 in its left half."""
    values = np.zeros((16, 24, 32), np.float32)
    values[8:] = 1 + np.random.default_rng(0).random((8, 24, 32))
    image = nibabel.nifti1.Nifti1Image(values, np.eye(4))
    labels = {0: Label("background", 0), 1: Label("all", 7)}
    for activation, model in (("softmax", linear([[0, 0]], [0, 5])), ("sigmoid", linear([[0]], [5]))):
        known = labels if activation == "softmax" else {0: labels[1]}
        for after, expected in (((), 7), ((Step("within_input"),), 0)):
            card = make_card(labels=known, kind="segmentation", activation=activation, postprocessing=after)
            result = np.asanyarray(Predictor(model, card=card)(image).dataobj)
            assert (result[8:] == 7).all() and (result[:7] == expected).all()


def overflowing():
    """A network that gives its input in channel 0 and inf - inf in channel 1; its layer called much is the first."""
    inputs = keras.Input((None, None, None, 1), name="image")
    more = keras.layers.Rescaling(1e30, name="more")(inputs)
    much = keras.layers.Rescaling(1e30, name="much")(more)
    nothing = keras.layers.Subtract(name="nothing")([much, much])
    return keras.Model(inputs, keras.layers.Concatenate(name="join")([inputs, nothing]))


LABELLED = {"labels": {0: Label("background", 0), 1: Label("lesion", 1)}, "kind": "segmentation"}


def test_a_network_that_gives_nan_is_an_error_that_names_case_channel_and_layer(tmp_path):
    volume = np.ones(SHAPE, np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "sub-01_T1w.nii.gz")
    card = make_card(**LABELLED, activation="softmax", patch=(8, 8, 8))
    with pytest.raises(ValueError) as error:
        predict(overflowing(), tmp_path / "sub-01_T1w.nii.gz", card=card)
    assert str(error.value) == (
        f"{tmp_path}/sub-01_T1w.nii.gz: toy.test gives nan in output channel 1; its layer 'much' is the first whose "
        "output is not finite. Check the weights and the scan."
    )


def test_a_network_that_overflows_in_low_precision_alone_is_told_so():
    inputs = keras.Input((None, None, None, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    predictor = Predictor(model, card=make_card(patch=(8, 8, 8)))
    predictor._forward = lambda windows: windows * np.float32(np.inf)
    with pytest.raises(ValueError, match=r'The image in memory: .* gives inf in .* finite\. Set precision="float32'):
        predictor(nibabel.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)))


@pytest.mark.parametrize("value", [1e30, -3e15])
def test_a_voxel_beyond_what_float32_can_square_is_refused_with_its_place(value, tmp_path):
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    volume[3, 5, 7] = value
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scan.nii")
    card = make_card(**LABELLED, activation="softmax", preprocessing=(Step("z_score"),))
    with pytest.raises(ValueError, match=r"scan\.nii has the value \S+ at voxel \(3, 5, 7\), and no .* 1e\+15"):
        predict(linear([[1, 2]]), tmp_path / "scan.nii", card=card)
    with pytest.raises(ValueError, match="The image for 'T1w' has the value"):
        predict(linear([[1, 2]]), nibabel.load(tmp_path / "scan.nii"), card=card)


def test_the_largest_voxel_that_is_taken_leaves_mean_and_sd_finite():
    volume = np.full((64, 64, 64), inputs.LARGEST, np.float32)
    volume[:32] = -inputs.LARGEST
    line = intensity.measure(volume, [{"name": "z_score"}])
    assert line.offset == 0 and line.scale == pytest.approx(1 / inputs.LARGEST)


def test_steps_that_leave_nan_name_the_voxel_and_channel():
    card, volume = make_card(channels=("T1w", "FLAIR")), np.zeros((4, 5, 6, 2), np.float32)
    assert inputs.check_normalised(volume, card, "a") is volume
    volume[1, 2, 3, 1] = np.inf
    with pytest.raises(ValueError, match=r"a: channel 'FLAIR' is inf at voxel \(1, 2, 3\) of the network's grid"):
        inputs.check_normalised(volume, card, "a")


@pytest.mark.parametrize("image", [None, 3, b"scan.nii", np.ones(SHAPE), io.StringIO("scan.nii")])
def test_what_is_no_image_says_what_to_pass(image):
    kind = type(image).__name__
    with pytest.raises(TypeError, match=rf"toy\.test takes the path of an image .*, got {kind}\. Pass the name"):
        predict(identity(), image, card=make_card())
