"""The surroundings of a patch, at every place where one is needed, against averages made by hand."""

import dataclasses

import keras
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.datasets import SHAPE as SHAPE_OF_CASES
from support.datasets import draw_image, write_cases, write_nifti
from support.tasks import BALL, draw_balls

import zoo
from zoo.exporters import window_network
from zoo.hub import card_file
from zoo.inference.sliding_window import sliding_window
from zoo.models.unet3d import unet3d
from zoo.pipeline.dataset import Stream, dataset
from zoo.pipeline.prepare import Reading
from zoo.training import batches, fit, network
from zoo.training.run import model_card
from zoo.volumes import context

SIZE, SHAPE, RATIO = (8, 16, 24), (20, 31, 26), 4


def by_hand(volume, corner, size, ratio):
    """Cuts the region out of a volume with much air around it and averages its blocks."""
    room = 4 * max(volume.shape)
    wide = np.pad(volume, [(room, room)] * 3 + [(0, 0)])
    first = [c - (ratio - 1) * n // 2 + room for c, n in zip(corner, size, strict=True)]
    x, y, z = (slice(f, f + ratio * n) for f, n in zip(first, size, strict=True))
    blocks = wide[x, y, z].reshape(size[0], ratio, size[1], ratio, size[2], ratio, -1)
    return blocks.mean((1, 3, 5))


def volume_of(shape=SHAPE, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, channels)).astype(np.float32)


@pytest.mark.parametrize("corner", [(0, 0, 0), (12, 15, 2), (5, 7, 1), (-3, 20, 40)])
@pytest.mark.parametrize("ratio", [2, 4])
def test_surroundings_are_averages_of_blocks_and_air_is_zero(corner, ratio):
    volume = volume_of()
    surroundings = context.around(context.block_means(volume, ratio), corner, SIZE, ratio)
    np.testing.assert_allclose(surroundings, by_hand(volume, corner, SIZE, ratio), atol=1e-6)


def test_the_middle_of_the_surroundings_lies_on_the_blocks_of_the_patch():
    volume = volume_of()
    means = context.around(context.block_means(volume, RATIO), (5, 7, 1), SIZE, RATIO)
    middle = means[tuple(slice(3 * n // 8, 5 * n // 8) for n in SIZE)]
    patch = volume[5:13, 7:23, 1:25].reshape(2, 4, 4, 4, 6, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(middle, patch, atol=1e-6)


def test_far_from_the_volume_there_is_nothing():
    assert not context.around(context.block_means(volume_of(), RATIO), (500, 0, -500), SIZE, RATIO).any()


@pytest.mark.parametrize(
    ("size", "ratio", "message"), [(SIZE, 1, "2 or more, got 1"), ((8, 12, 16), 4, "multiple of 8")]
)
def test_what_has_no_surroundings_is_refused(size, ratio, message):
    with pytest.raises(ValueError, match=message):
        context.check(size, ratio)


def middle_enlarged(windows):
    """Stands for a network: the block of the surroundings that a voxel lies in, as its logit."""
    num, ratio = windows.shape[-1] // 2, RATIO
    middle = windows[:, 3:5, 6:10, 9:15, num:]  # of windows of SIZE
    return middle.repeat(ratio, 1).repeat(ratio, 2).repeat(ratio, 3)


def farthest(windows):
    """The first voxel of the surroundings, which lies a patch and a half away, as the logit of every voxel."""
    num = windows.shape[-1] // 2
    return np.broadcast_to(windows[:, :1, :1, :1, num:], (*windows.shape[:-1], num)).copy()


def position_coded(shape):
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (x + 100 * y + 10000 * z)[..., None].astype(np.float32)


def test_by_windows_is_as_over_the_whole_volume():
    """Windows half a patch apart lie on one grid of blocks: each voxel then has its block's mean in all of them."""
    volume = position_coded((24, 32, 48))
    result = sliding_window(middle_enlarged, volume, patch=SIZE, overlap=0.5, activation="linear", context=RATIO)
    means = volume.reshape(6, 4, 8, 4, 12, 4, 1).mean((1, 3, 5))
    np.testing.assert_allclose(result, means.repeat(4, 0).repeat(4, 1).repeat(4, 2), rtol=1e-6)


def test_each_window_sees_its_own_surroundings_and_mirrored_ones_theirs():
    volume = position_coded((16, 32, 24)) + 1
    for axes in ((), (0,)):
        result = sliding_window(
            farthest, volume, patch=SIZE, overlap=0, activation="linear", context=RATIO, mirror_axes=axes, batch_size=3
        )
        for corner in ((0, 0, 0), (8, 0, 0), (8, 16, 0)):
            around = by_hand(volume, corner, SIZE, RATIO)
            expected = around[0, 0, 0] if not axes else (around[0, 0, 0] + around[-1, 0, 0]) / 2
            np.testing.assert_allclose(result[corner], expected, rtol=1e-6)


def test_windows_that_surroundings_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 8 voxels"):
        sliding_window(farthest, volume_of(), patch=12, context=RATIO)


@pytest.mark.parametrize("patch", [(8, 16, 16), (24, 16, 40)])
def test_patches_of_cases_have_their_surroundings(tmp_path, patch):
    """The second patch is larger than the case, and air is added on both sides."""
    (case,) = write_cases(tmp_path, 1)
    volume = np.stack([np.asarray(nibabel.load(path).dataobj) for path in case.channels.values()], -1)
    room = [max(p - n, 0) for p, n in zip(patch, SHAPE_OF_CASES, strict=True)]
    air = np.pad(volume, [(each // 2, each - each // 2) for each in room] + [(0, 0)]).astype(np.float32)
    stream = Stream(seed=3, context=RATIO, stop=6)
    seen = set()
    for cut, labels in dataset([case], patch=patch, reading=Reading(steps=()), stream=stream).as_numpy_iterator():
        assert cut.shape == (1, *patch, 4) and labels.shape == (1, *patch, 1)
        corner = place_of(cut[0, ..., :2], air)
        seen.add(corner)
        np.testing.assert_allclose(cut[0, ..., 2:], by_hand(air, corner, patch, RATIO), rtol=1e-5, atol=1e-3)
    assert len(seen) > 1


def place_of(patch, volume):
    """Where a patch of random numbers lies."""
    windows = np.lib.stride_tricks.sliding_window_view(volume, patch.shape)[..., 0, :, :, :, :]
    (place,) = np.argwhere((windows == patch).all((3, 4, 5, 6)))
    return tuple(map(int, place))


def test_surroundings_are_augmented_as_their_patch_is(tmp_path):
    def flipped(image, labels, seed):
        return tf.reverse(image, [0]) * (1.0 + tf.cast(seed[1], "float32")), labels

    cases = write_cases(tmp_path, 1)
    options = {"patch": (8, 16, 16), "reading": Reading(steps=()), "stream": Stream(seed=3, context=2, stop=2)}
    plain, changed = (list(dataset(cases, **options, augment=each)) for each in (None, flipped))
    for number, ((patch, _), (other, _)) in enumerate(zip(plain, changed, strict=True)):
        np.testing.assert_allclose(np.asarray(patch)[:, ::-1] * (1 + number), other, rtol=1e-6)


def test_whole_volumes_and_odd_patches_have_no_surroundings(tmp_path):
    cases = write_cases(tmp_path, 1)
    with pytest.raises(ValueError, match="Whole volumes have no surroundings"):
        dataset(cases, patch=None, stream=Stream(context=4))
    with pytest.raises(ValueError, match="multiple of 8"):
        dataset(cases, patch=(8, 12, 8), stream=Stream(context=4))


def test_the_middle_of_the_second_branch_joins_the_level_of_its_stride():
    model = keras.Model(
        (built := unet3d((16, 24, 32, 2), 1, filters=(2, 3, 4), norm="none", context=4)).input,
        [built.get_layer(name).output for name in ("context_0_back_conv_1_relu", "encoder_2_context_concat")],
    )
    wide, joined = (np.asarray(output) for output in model(volume_of((16, 24, 32))[None]))
    assert joined.shape == (1, 4, 6, 8, 3 + 2)
    np.testing.assert_array_equal(joined[..., 3:], wide[:, 6:10, 9:15, 12:20])


def test_the_network_sees_the_far_end_of_the_surroundings():
    built = unet3d((16, 16, 16, 2), 1, filters=(4, 4, 4), norm="none", context=4)
    quiet = volume_of((16, 16, 16))[None]
    loud = quiet.copy()
    loud[0, 0, 0, 0, 1] += 100.0
    assert np.abs(np.asarray(built(loud)) - np.asarray(built(quiet))).max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 3}, "which its surroundings join: 2, 4; got 3"),
        ({"context": 2, "strides": ((2, 2, 1), 2)}, "none with these strides; got 2"),
        ({"context": 4, "input_shape": (None, None, None, 3)}, "an even number, got 3"),
        ({"context": 4, "padding": "valid"}, "padding='valid'"),
        ({"context": 4, "input_shape": (16, 24, 20, 2)}, "must be a multiple of 8, got"),
    ],
)
def test_networks_that_cannot_have_surroundings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        unet3d(**{"input_shape": (None, None, None, 2), "filters": (2, 3, 4)} | arguments)


def synthesis(task, split):
    """A ball, and noise; one far voxel of the surroundings is bright."""
    plain = draw_balls(task, split)

    def sample(seed):
        image, labels = plain(seed)
        return tf.concat([image, tf.roll(image, 3, 0)], -1), labels

    return sample


TASK = BALL.replace(
    arguments={"filters": (2, 3, 4), "norm": "instance"},
    patch=(8, 16, 16),
    divisor=(8, 8, 8),
    context=4,
    samples=synthesis,
    batch_size=1,
    validation_batches=1,
)


@pytest.mark.parametrize("source", ["synthetic", "cases"])
def test_a_run_its_card_and_its_predictions(tmp_path, source):
    """What a run has learned to look at is on its card, and prediction shows it that."""
    labels = np.zeros(SHAPE_OF_CASES, np.uint8)
    labels[4:8, 6:12, 8:16] = 7
    for number in range(2):
        write_nifti(tmp_path / "cases" / f"case{number}" / "T1w.nii", draw_image(number))
        write_nifti(tmp_path / "cases" / f"case{number}" / "labels.nii", labels)
    data = source if source == "synthetic" else tmp_path / source
    out = fit.train(TASK, data, tmp_path / "run", steps=2, options=fit.TrainOptions(precision="float32"))
    folder = out / TASK.model_name
    zoo.verify(folder)
    card = zoo.card(folder)
    assert card.input.context == card.arguments["context"] == 4 and card.arguments["input_shape"][-1] == 2
    assert card_file.parse(card_file.write(card, tmp_path / "card.json").read_bytes(), "again") == card
    assert "4 times as wide" in (folder / "README.md").read_text()
    scan = np.random.default_rng(1).normal(size=(8, 16, 16)).astype(np.float32)
    result = zoo.predict(folder, nibabel.Nifti1Image(scan, np.eye(4)), probabilities=True)
    window = np.concatenate([scan[..., None], by_hand(scan[..., None], (0, 0, 0), scan.shape, 4)], -1)
    logits = np.asarray(zoo.load(folder)(window[None]))[0]
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(result.dataobj), expected, atol=1e-5)


def test_a_card_whose_context_is_not_that_of_its_network_is_refused():
    card = model_card.describe(TASK, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 1.0})
    for changes, message in (
        ({"context": None}, r"arguments.context, 4, got None; arguments.input_shape|input_shape must end in the 1"),
        ({"context": 4, "divisor": (4, 8, 8)}, "a divisor of its double, got 4"),
    ):
        wrong = dataclasses.replace(card, input=dataclasses.replace(card.input, **changes))
        with pytest.raises(ValueError, match=message):
            card_file.check(wrong, complete=False)


def test_who_has_no_surroundings_to_give_is_refused():
    with pytest.raises(ValueError, match="does not give 2 channels"):
        batches.synthetic(TASK.replace(samples=draw_balls), split="train", seed=0)
    with pytest.raises(ValueError, match="no argument of vnet 'context'"):
        network.build(TASK.replace(builder="vnet", arguments={"filters": (2, 3)}), 10)


@pytest.mark.parametrize("format", ["saved_model", "monai_bundle"])
def test_exports_that_cut_windows_refuse_by_name(tmp_path, format):
    settings = {"source": "synthetic", "seed": 0, "steps": 1}
    card = dataclasses.replace(model_card.describe(TASK, settings, {"seconds": 1.0}), name="unet3d.wide")
    folder = zoo.save(zoo.load("unet3d", **TASK.builder_arguments), tmp_path / "unet3d.wide", card, dtype="float32")
    with pytest.raises(ValueError, match="surroundings 4 times as wide beside each window"):
        zoo.export(folder, tmp_path / "out", format=format)
    shapes = [tensor.shape for tensor in window_network.draw_inputs(card, (8, 16, 16))]
    assert shapes == [(1, 8, 16, 16, 2)]  # what exports of the network alone are compared on
