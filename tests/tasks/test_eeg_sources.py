"""The task `eeg_sources`: its bank of heads and montages, and batches that are functions of seed and number."""

import numpy as np
import pytest

from zoo import tasks
from zoo.eeg import bank, grid, head_surfaces, kernels, sharpening
from zoo.eeg.leadfield import lead_field
from zoo.tasks import eeg_sources as task
from zoo.training import batches

pytest.importorskip("mne")


@pytest.fixture(scope="module")
def small():
    """Two montages on the sphere, whose lead field takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "members", lambda: made)
        made = bank._build(2, 3, (("sphere", None, None),))
        yield made


def test_a_bank_holds_what_kernels_and_lead_field_say(small):
    names = bank.montage_names("biosemi64")
    field = lead_field("sphere").montage(names)
    assert small.members == 2 and small.present[0].sum() == 64
    own = kernels.kernels(field)
    assert small.eloreta[0, :, :64] == pytest.approx(own.eloreta, abs=float(2e-3 * np.abs(own.eloreta).max()))
    assert not small.eloreta[0, :, 64:].any() and not small.blocks[0, ..., 64:].any()
    scaled = field.columns / np.abs(field.matrix).max()
    assert small.field[0, :64] == pytest.approx(scaled, abs=1e-3)
    covariance = small.colour[0] @ small.colour[0].T
    expected = np.pad(scaled @ scaled.T, ((0, 64), (0, 64)))
    assert covariance == pytest.approx(expected * 64 / np.trace(expected), abs=1e-4)
    assert small.spread.sum(-1) == pytest.approx(np.ones((2, grid.NUM_PLACES)), abs=1e-5)


def test_montages_are_well_spread_and_lose_channels():
    draw = np.random.default_rng(0)
    for count in (19, 40, 128):
        names = bank.scattered(count, draw)
        rows = [head_surfaces.electrode_names().index(name) for name in names]
        places = head_surfaces.head().electrodes_mm[rows]
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e3 * np.eye(count)
        assert len(set(names)) == count and distances.min() > 150 / np.sqrt(count) / 2
    sizes = [len(bank._draw_names(draw, 0, 1)) for _ in range(30)]
    assert min(sizes) < 64 == max(sizes) and min(sizes) >= 58
    assert len(bank.montage_names("standard_1020")) == 19


def test_a_bank_comes_back_from_the_cache(monkeypatch, tmp_path, small):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(bank, "_build", lambda *_: small)
    bank.bank(2, seed=3)
    monkeypatch.setattr(bank, "_build", None)
    again = bank.bank(2, seed=3)
    assert np.array_equal(again.field, small.field) and np.array_equal(again.blocks, small.blocks)


@pytest.mark.slow
def test_batches_go_on_where_they_stopped(small):
    small_task = task.TASK.replace(batch_size=3, sample_arguments={"sbl_steps": (1, 2)})  # few: steps compile long
    every = list(batches.synthetic(small_task, split="train", seed=0, stop=2))
    later = next(iter(batches.synthetic(small_task, split="train", seed=0, start=1, stop=2)))
    assert every[0][0].shape == (3, *grid.SHAPE, 12) and every[0][1].shape == (3, *grid.SHAPE, 6)
    assert np.array_equal(every[1][0], later[0]) and np.array_equal(every[1][1], later[1])
    assert np.abs(every[0][0] - every[1][0]).max() > 0.1
    x, y = (np.asarray(part) for part in every[0])
    assert np.isfinite(x).all() and np.abs(x).max() <= 1.01
    assert y[..., 0].sum((1, 2, 3)) == pytest.approx((y[..., 5].max((1, 2, 3)) > 0).astype(float), abs=1e-4)


def test_the_graph_sees_what_the_kernels_show(small):
    """A batch's input equals `Kernels.apply` of its topographies, up to half precision."""
    from zoo.synth import eeg_topographies

    batch = task.synthesis(task.TASK.replace(batch_size=4), "train")
    seed = next(
        s for s in range(20) if int(np.asarray(eeg_topographies.seeds.bits([0, s], (1,), stream=20))[0]) % 2 == 0
    )
    x, _ = batch(np.array([0, seed]))
    params = eeg_topographies.draw(
        np.array([0, seed]), 4, task.space(), eeg_topographies.Recipe(), channels=bank.CHANNELS
    )
    parts = (small.field[0].astype(np.float32), small.present[0], small.colour[0])
    measured = np.asarray(eeg_topographies.apply(params, task.space(), *parts))[:, :64]
    field = lead_field("sphere").montage(bank.montage_names("biosemi64"))
    own = kernels.kernels(field, sharpening.STEPS).apply(measured)
    assert np.asarray(x)[..., :10] == pytest.approx(own[..., :10], abs=5e-3)
    assert np.abs(np.asarray(x) - own)[..., 10:].max() < 0.05  # steps amplify what half precision lost
    plain, _ = task.synthesis(task.TASK.replace(batch_size=4), "train", sbl_steps=())(np.array([0, seed]))
    assert np.asarray(plain) == pytest.approx(kernels.kernels(field).apply(measured), abs=5e-3)


def test_potentials_alone_are_spread_without_physics(small):
    x, _ = task.synthesis(task.TASK.replace(batch_size=2), "train", inputs="electrodes")(np.array([0, 1]))
    x = np.asarray(x)
    assert x.shape == (2, *grid.SHAPE, 5) and np.abs(x[..., 0]).max((1, 2, 3)) == pytest.approx([1, 1], abs=1e-4)
    with pytest.raises(ValueError, match="inputs"):
        task.synthesis(task.TASK, "train", inputs="potentials")


@pytest.mark.slow
def test_a_small_set_comes_back_and_cubes_are_for_training_alone(small):
    small_task = task.TASK.replace(batch_size=2, sample_arguments={"examples": 2, "target": "dilated", "sbl_steps": ()})
    targets = [np.asarray(y) for _, y in batches.synthetic(small_task, split="train", seed=0, stop=4)]
    assert np.array_equal(targets[0], targets[2]) and np.array_equal(targets[1], targets[3])
    assert not np.array_equal(targets[0], targets[1])
    (validation,) = [np.asarray(y) for _, y in batches.synthetic(small_task, split="validation", seed=0, stop=1)]
    levels = [len(np.unique(target[..., 0].round(7))) for target in (targets[0], validation)]
    assert levels[0] <= 40 < levels[1]  # cubes have few values, bumps many


def test_both_networks_are_found_by_name():
    assert tasks.task("eeg_sources").network.builder == "unet3d" and tasks.task("vnet.eeg_sources") is task.VNET
    assert len(task.TASK.data.labels) == task.TASK.num_logits == 10 == len(task.TASK.fit.final_bias)
