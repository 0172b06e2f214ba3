"""`zoo.locate_sources` on mne's objects: places and moments against simulated dipoles, repairs, refusals, files."""

import json
import types

import numpy as np
import pytest

import zoo
from zoo.cli.main import app
from zoo.eeg import bank, decode, grid, head_surfaces
from zoo.eeg.kernels import CHANNELS
from zoo.eeg.leadfield import lead_field
from zoo.hub import trained_models
from zoo.source_imaging import head_model, located_sources, locator
from zoo.source_imaging import recording as recordings
from zoo.source_imaging.units import RecordingWarning
from zoo.tasks import eeg_sources
from zoo.training import network
from zoo.training.run import model_card

mne = pytest.importorskip("mne")
NAMES = tuple(bank.montage_names("biosemi64"))
RATE = 100.0


@pytest.fixture(scope="module", autouse=True)
def sphere():
    """The closed form of the sphere in place of fsaverage's boundary elements: seconds less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_model, "lead_field", lambda **given: lead_field("sphere", **given))
        yield lead_field("sphere").montage(NAMES)


@pytest.fixture
def fake(monkeypatch):
    """A network that trusts the fit of one dipole and is sure of two sources."""

    def logits(volumes):
        found = np.zeros((*volumes.shape[:-1], 10), np.float32)
        found[..., 0] = 60 * volumes[..., 5]
        found[..., 3] = 5
        return found

    monkeypatch.setattr(locator, "_load_network", lambda folder: logits)
    monkeypatch.setattr(locator, "_read_settings", lambda folder: locator.SourceImagingSettings())
    monkeypatch.setattr(locator, "trained_models", types.SimpleNamespace(find=str))


def dipole(field, place, moment_nam=(10.0, -20.0, 5.0)):
    return field.matrix[:, place].astype(float) @ np.array(moment_nam) * 1e-9


def evoked(field, place, *, times=20, bads=(), montage=True):
    """A dipole that rises and falls, its peak at sample 12."""
    course = np.exp(-0.5 * ((np.arange(times) - 12) / 3) ** 2)
    info = mne.create_info(list(field.names), RATE, "eeg", verbose="ERROR")
    info["bads"] = list(bads)
    made = mne.EvokedArray(np.outer(dipole(field, place), course), info, tmin=-0.05, verbose="ERROR")
    return made.set_montage("biosemi64") if montage else made


@pytest.mark.parametrize("place", [700, 2500, 4200])
def test_a_dipole_is_found_with_its_moment(sphere, fake, place):
    found = zoo.locate_sources(evoked(sphere, place), count=1)
    assert found.sources[0].mri_mm == pytest.approx(tuple(sphere.positions_mm[place]), abs=0.1)
    assert found.sources[0].moment_nam == pytest.approx((10, -20, 5), rel=1e-3)
    assert found.explained == pytest.approx(1, abs=1e-6) and found.time_s == (pytest.approx(0.07), pytest.approx(0.07))
    expected = head_model.MNI152_FROM_305 @ [*grid.grid()[0][place], 1]
    assert found.sources[0].mni_mm == pytest.approx(tuple(expected[:3]), abs=0.01)


def test_the_estimate_and_the_image_hold_the_posterior(sphere, fake, tmp_path):
    found = zoo.locate_sources(evoked(sphere, 2500), times=(0.0, 0.1), method="network")
    assert isinstance(found.estimate, mne.VolSourceEstimate)
    assert found.estimate.data.shape == (grid.NUM_PLACES, 11)
    strength = found.estimate.data.sum(0)
    assert strength[7] == pytest.approx(np.linalg.norm([10, -20, 5]), rel=0.1)  # of one dipole at the ball's middle
    assert strength / strength[7] == pytest.approx(np.exp(-0.5 * ((np.arange(5, 16) - 12) / 3) ** 2), rel=1e-3)
    volume = found.estimate.as_volume(found.source_space, mri_resolution=False)
    peak = np.unravel_index(np.asarray(volume.dataobj)[..., 7].argmax(), grid.SHAPE)
    assert (volume.affine @ [*peak, 1])[:3] == pytest.approx(sphere.positions_mm[2500] + 0, abs=20)
    assert found.estimate.times[[0, -1]] == pytest.approx([0.0, 0.1])
    assert len(found.sources) == 2 and found.counts.argmax() == 2 and found.share == pytest.approx(1)
    image = found.image()
    peak = np.unravel_index(np.asarray(image.dataobj).argmax(), grid.SHAPE)
    place = found.posterior.argmax()
    assert (image.affine @ [*peak, 1])[:3] == pytest.approx(head_model.to_mni(grid.grid()[0][[place]])[0], abs=1e-3)
    found.estimate.save(tmp_path / "sub-01", verbose="ERROR")
    assert mne.read_source_estimate(tmp_path / "sub-01-vl.stc").data == pytest.approx(found.estimate.data, rel=1e-5)
    assert found.courses_nam.shape == (2, 20) and found.course_times_s[0] == pytest.approx(-0.05)
    assert found.courses()[12].keys() == {"time_s", "source_1_nam", "source_2_nam"}
    row = found.table()[0]
    assert row["source"] == 1 and {"mri_x_mm", "mni_z_mm", "moment_y_nam", "explained", "confidence"} <= set(row)


TURN = mne.transforms.rotation(0.2, -0.1, 0.3)  # from the own MRI to head coordinates


@pytest.fixture(scope="module")
def own():
    """mne's own forward solution of a ball, its places told in an MRI that lies turned."""
    template = head_surfaces.head("sphere")
    places = dict(zip(head_surfaces.electrode_names(), template.electrodes_mm * 1e-3, strict=True))
    montage = mne.channels.make_dig_montage({name: places[name] for name in NAMES}, coord_frame="head")
    info = mne.create_info(list(NAMES), RATE, "eeg", verbose="ERROR").set_montage(montage)
    centre = np.array(template.warp.centre_mm) * 1e-3
    conductor = mne.make_sphere_model(
        centre, np.linalg.norm(template.surfaces_mm[2, 0] * 1e-3 - centre), verbose="ERROR"
    )
    source = mne.setup_volume_source_space(pos=10.0, sphere=(*centre, 0.07), sphere_units="m", verbose="ERROR")
    source[0]["rr"] = mne.transforms.apply_trans(np.linalg.inv(TURN), source[0]["rr"])
    source[0]["coord_frame"] = 5  # MRI
    trans = mne.Transform("mri", "head", TURN)
    return mne.make_forward_solution(info, trans, source, conductor, meg=False, mindist=0, verbose="ERROR"), info


def test_an_own_forward_solution_sets_places_and_axes(own, fake, tmp_path):
    """The truth is a column of mne's own forward solution, in mne's head coordinates."""
    forward, info = own
    column, moment = forward["nsource"] // 2, np.array([3.0, -10.0, 12.0])
    topography = forward["sol"]["data"][:, 3 * column : 3 * column + 3] @ moment * 1e-9
    found = zoo.locate_sources(mne.EvokedArray(topography[:, None], info, verbose="ERROR"), forward, count=1)
    true_mri = TURN[:3, :3].T @ forward["source_rr"][column] * 1e3
    assert np.linalg.norm(np.array(found.sources[0].mri_mm) - true_mri) < 0.5
    assert found.sources[0].moment_nam == pytest.approx(tuple(TURN[:3, :3].T @ moment), rel=1e-2, abs=0.1)
    assert len(found.estimate.vertices[0]) == forward["nsource"]
    assert found.estimate.data.sum() == pytest.approx(np.linalg.norm(moment), rel=1e-2)
    assert found.source_space is not None and len(found.source_space[0]["vertno"]) == forward["nsource"]
    window = zoo.locate_sources(
        mne.EvokedArray(np.outer(topography, [0.5, 1.0, 0.7]), info, verbose="ERROR"), forward, times=(0.0, 0.02)
    )
    assert window.method == "sparse_bayes" and window.own_head
    assert np.linalg.norm(np.array(window.sources[0].mri_mm) - true_mri) < 8
    volume = window.subject_image()
    assert np.asarray(volume.dataobj).sum() == pytest.approx(1, rel=1e-5) and volume.affine[0, 0] == pytest.approx(10)
    vertex = np.asarray(volume.dataobj).ravel(order="F").argmax()
    assert np.linalg.norm(forward["src"][0]["rr"][vertex] - forward["source_rr"][column]) < 0.011
    files = located_sources.write(window, tmp_path, "sub-01")
    assert [file.name for file in files][-1] == "sub-01_space-subject_posterior.nii.gz"


def test_forward_solutions_that_do_not_fit_are_refused(own, fake):
    forward, info = own
    made = mne.EvokedArray(forward["sol"]["data"][:, :1] * 1e-8, info, verbose="ERROR")
    fixed = forward.copy()
    fixed["source_ori"] = 1
    with pytest.raises(ValueError, match="fixed orientations"):
        zoo.locate_sources(made, fixed)
    few = mne.pick_channels_forward(forward, list(NAMES[:40]), verbose="ERROR")
    with pytest.raises(ValueError, match="lacks 24 of the recording's 64 channels"):
        zoo.locate_sources(made, few)
    with pytest.raises(TypeError, match=r"mne.Forward or None .* got dict"):
        zoo.locate_sources(made, {})


def test_bad_flat_and_unnamed_channels_are_left_out_and_told(sphere, fake):
    made = evoked(sphere, 2500, bads=["Cz", "Oz"])
    made.data[NAMES.index("Cz")] = 1.0
    made.data[NAMES.index("Fp1")] = 0.0
    made.data += 3e-6  # another reference
    found = zoo.locate_sources(made, count=1)
    # What is left differs from the simulated reference by a constant alone.
    assert found.sources[0].mri_mm == pytest.approx(tuple(sphere.positions_mm[2500]), abs=12)
    told = " ".join(found.repairs)
    assert "2 channels left out, marked bad: Oz, Cz." in told and "average of its" in told
    made.data[NAMES.index("Fp1")] = 7.0
    assert "1 channels left out, flat: Fp1." in " ".join(zoo.locate_sources(made, count=1).repairs)


def noisy(field, clean, *, seed=0, times=150, scale=1e-6):
    """Topographies (channels,) over time, their peak at sample 90, in white noise; 0 s is sample 50."""
    random = np.random.default_rng(seed)
    course = np.exp(-0.5 * ((np.arange(times) - 90) / 8) ** 2)
    noise = scale * random.standard_normal((len(field.names), times))
    info = mne.create_info(list(field.names), 250.0, "eeg", verbose="ERROR")
    made = mne.EvokedArray(np.outer(clean, course) + noise, info, tmin=-0.2, verbose="ERROR")
    return made.apply_baseline((None, 0), verbose="ERROR")


@pytest.mark.parametrize("tmin", [-0.2, 0.0])
def test_noise_alone_has_no_source(sphere, fake, tmin, tmp_path):
    made = noisy(sphere, np.zeros(len(NAMES)))
    if tmin == 0.0:
        made = mne.EvokedArray(made.copy().crop(tmin, None).data, made.info, verbose="ERROR")
    found = zoo.locate_sources(made, count=2)
    assert (
        found.status == "no source above noise" and found.sources == () and found.counts.tolist() == [1, 0, 0, 0, 0, 0]
    )
    assert found.evidence.chance > 0.01 and found.message.startswith("no source above noise at")
    assert "the 2 that were asked for are not given" in found.notes[-1]
    assert (found.evidence.noise == "unknown") == (tmin == 0.0)
    files = located_sources.write(found, tmp_path, "sub-01")
    assert [file.name for file in files] == ["sub-01_sources.csv", "sub-01_posterior.nii.gz", "sub-01_courses.csv"]
    assert files[0].read_text().startswith("source,mri_x_mm") and len(files[0].read_text().splitlines()) == 1


def test_one_dipole_above_a_measured_noise_counts_as_one_however_many_are_asked_for(sphere, fake):
    made = noisy(sphere, dipole(sphere, 2500))
    found = zoo.locate_sources(made)
    assert found.status == "located" and len(found.sources) == 1 and found.counts[1] > 0.9
    assert found.evidence.noise == "the baseline" and found.evidence.chance < 1e-6
    assert found.evidence.residual == pytest.approx(1, abs=0.5) and found.summary()["count"] == 1
    told = zoo.locate_sources(made, count=4)
    assert len(told.sources) == 4 and all(source.confidence < 0.1 for source in told.sources[1:])


def test_samples_before_0_s_that_may_hold_the_signal_do_not_deny_it(sphere, fake):
    """A rhythm that was there all the time, in an average without a baseline."""
    rhythm = np.cos(2 * np.pi * 4 * np.arange(150) / 250)
    made = noisy(sphere, np.zeros(len(NAMES)))
    data = made.data + np.outer(dipole(sphere, 2500), rhythm)
    made = mne.EvokedArray(data, made.info, tmin=-0.2, verbose="ERROR")
    found = zoo.locate_sources(made, count=1)
    assert found.status == "located" and found.evidence.noise == "unknown"
    assert found.notes[0].startswith("The field is no stronger than before 0 s (probability")
    assert zoo.locate_sources(made.apply_baseline((None, 0), verbose="ERROR")).status == "no source above noise"


def test_one_bad_electrode_is_left_out_and_stated(sphere, fake):
    made = noisy(sphere, dipole(sphere, 2500))
    made.data[5] += 60e-6 * np.random.default_rng(2).standard_normal(150)
    with pytest.warns(RecordingWarning, match=f"1 channels left out, bad, for no source explains .*: {NAMES[5]}"):
        found = zoo.locate_sources(made, times=(90 - 50) / 250, count=1)
    assert np.linalg.norm(np.array(found.sources[0].mri_mm) - sphere.positions_mm[2500]) < 15


def test_constant_offsets_and_microvolts_do_not_change_the_result(sphere, fake):
    made = noisy(sphere, dipole(sphere, 2500))
    plain = zoo.locate_sources(made, count=1)
    made.data += np.random.default_rng(3).uniform(-5e-3, 5e-3, (len(NAMES), 1))
    with pytest.warns(RecordingWarning, match=r"Constant offsets of the channels, .* uV, were subtracted \(baseline"):
        level = zoo.locate_sources(made, count=1)
    made = noisy(sphere, dipole(sphere, 2500))
    made.data *= 1e6
    with pytest.warns(RecordingWarning, match="in uV: scaled by 1e-6"):
        scaled = zoo.locate_sources(made, count=1)
    for found in (level, scaled):
        assert found.sources[0].mri_mm == plain.sources[0].mri_mm
        assert found.sources[0].moment_nam == pytest.approx(plain.sources[0].moment_nam, abs=3)


def test_a_given_covariance_is_the_noise(sphere, fake):
    made = noisy(sphere, 0.3 * dipole(sphere, 2500)).crop(0.0, None)
    covariance = mne.make_ad_hoc_cov(made.info, {"eeg": 1e-6}, verbose="ERROR")
    assert zoo.locate_sources(made, noise_cov=covariance).evidence.noise == "the given covariance"
    loud = mne.make_ad_hoc_cov(made.info, {"eeg": 1e-4}, verbose="ERROR")
    assert zoo.locate_sources(made, noise_cov=loud).status == "no source above noise"
    with pytest.raises(ValueError, match=r"noise covariance has a standard deviation of 0.99 V a channel"):
        zoo.locate_sources(made, noise_cov=mne.make_ad_hoc_cov(made.info, {"eeg": 1.0}, verbose="ERROR"))
    with pytest.raises(TypeError, match=r"noise_cov is an mne.Covariance or None, got int"):
        zoo.locate_sources(made, noise_cov=3)


def test_a_continuous_recording_needs_a_time_or_the_name_of_its_events(sphere, fake):
    still = noisy(sphere, np.zeros(len(NAMES)), times=3000)  # 12 s
    raw = mne.io.RawArray(still.data, still.info, verbose="ERROR")
    for start in range(400, 2700, 300):
        raw._data[:, start - 10 : start + 11] += np.outer(dipole(sphere, 2500), np.hanning(21))
    raw.set_annotations(mne.Annotations(np.arange(400, 2700, 300) / 250, 0.0, "spike"))
    with pytest.raises(ValueError, match=r"continuous recording of 12 s needs a time: .* Its events are spike"):
        zoo.locate_sources(raw)
    single = zoo.locate_sources(raw, times=400 / 250)
    averaged = zoo.locate_sources(raw, condition="spike", times=0.0)
    assert single.evidence.noise == "the recording around the window"
    assert averaged.evidence.noise == "the baselines of 8 epochs"
    for found in (single, averaged):
        assert np.linalg.norm(np.array(found.sources[0].mri_mm) - sphere.positions_mm[2500]) < 15
    assert averaged.evidence.power > 3 * single.evidence.power
    assert single.course_times_s[-1] - single.course_times_s[0] == pytest.approx(2.0, abs=0.01)


def test_epochs_raw_and_names_without_positions(sphere, fake):
    one = evoked(sphere, 2500, montage=False)
    raw = mne.io.RawArray(one.data, one.info, verbose="ERROR")
    epochs = mne.EpochsArray(np.stack([one.data] * 3), one.info, verbose="ERROR")
    for recording in (one, raw, epochs):
        assert zoo.locate_sources(recording, count=1).sources[0].mri_mm == pytest.approx(
            tuple(sphere.positions_mm[2500]), abs=0.1
        )


def nameless(field, place, number):
    made = evoked(field, place)
    return made.rename_channels({name: f"E{n}" for n, name in enumerate(made.ch_names)}).pick(list(range(number)))


def test_channels_without_known_names_are_placed_by_position(sphere, fake):
    found = zoo.locate_sources(nameless(sphere, 2500, 64), count=1)
    away = np.array(found.sources[0].mri_mm) - sphere.positions_mm[2500]
    assert np.linalg.norm(away) < 20  # biosemi64's positions are not those of fsaverage_1005


def break_with_nan(made):
    made.data[3, 2] = np.nan


def break_all_flat(made):
    made.data[:] = 1e-6


def break_few(made):
    made.pick(list(NAMES[:18]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_with_nan, "1 channels hold NaN or infinity: F1"),
        (break_all_flat, "All 64 good EEG channels are flat"),
        (break_few, "19 to 256 good EEG channels, got 18"),
    ],
)
def test_what_cannot_be_used_is_refused(sphere, fake, change, message):
    made = evoked(sphere, 2500)
    change(made)
    with pytest.raises(ValueError, match=message):
        zoo.locate_sources(made)


def test_meg_alone_other_objects_and_no_montage_are_refused(sphere, fake, tmp_path):
    info = mne.create_info(["MEG 0111", "MEG 0121"], RATE, ["mag", "grad"], verbose="ERROR")
    with pytest.raises(ValueError, match="no EEG channel, only 1 mag, 1 grad"):
        zoo.locate_sources(mne.EvokedArray(np.ones((2, 5)), info, verbose="ERROR"))
    with pytest.raises(TypeError, match="got ndarray"):
        zoo.locate_sources(np.ones((64, 5)))
    unplaced = nameless(sphere, 2500, 64)
    unplaced.set_montage(None)
    with pytest.raises(ValueError, match=r"0 of 64 channels have a position and 0 a name .* Set a montage"):
        zoo.locate_sources(unplaced)
    with pytest.raises(ValueError, match="times must lie within -0.05 to 0.14 s"):
        zoo.locate_sources(evoked(sphere, 2500), times=2.0)
    with pytest.raises(ValueError, match="count is the number of sources, 1 to 5"):
        zoo.locate_sources(evoked(sphere, 2500), count=6)
    with pytest.raises(FileNotFoundError, match="no file"):
        recordings.read_recording(tmp_path / "none-ave.fif")
    (tmp_path / "bad-ave.fif").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="mne cannot read bad-ave.fif"):
        recordings.read_recording(tmp_path / "bad-ave.fif")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network with first weights, published as training does."""
    task = eeg_sources.TASK.replace(arguments={"filters": (2, 4), "norm": "none"}, divisor=(2, 2, 2))
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text(json.dumps({"source": "synthetic", "seed": 0, "steps": 1}))
    return model_card.publish(network.build(task, 1), task, run, progress={"seconds": 1.0})


def test_a_published_model_verifies_and_serves_the_command_line(sphere, model, tmp_path, capsys):
    trained_models.verify(model)
    card = trained_models.card(model)
    assert card.output.kind == "sources" and len(card.output.labels) == 10
    assert card.preprocessing[0].name == "eeg_kernels" and tuple(card.preprocessing[0].parameters["sbl_steps"]) == (
        4,
        12,
    )
    mne.write_evokeds(tmp_path / "sub-01-ave.fif", evoked(sphere, 2500), verbose="ERROR")
    (tmp_path / "bad-ave.fif").write_bytes(b"nonsense")
    files = [str(tmp_path / name) for name in ("sub-01-ave.fif", "bad-ave.fif")]
    with pytest.raises(SystemExit) as ended:
        app(["predict", str(model), *files, "--out", str(tmp_path / "out"), "--json"])
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert ended.value.code == 1 and "mne cannot read bad-ave.fif" in printed.err
    assert rows[0]["sources"][0]["source"] == 1 and "error" in rows[1]
    lines = (tmp_path / "out" / "sub-01_sources.csv").read_text().splitlines()
    assert lines[0].startswith("source,mri_x_mm") and len(lines) == 1 + len(rows[0]["sources"])
    assert (tmp_path / "out" / "sub-01_posterior.nii.gz").exists()


def test_each_kind_of_model_is_sent_to_its_own_kind_of_data(model):
    with pytest.raises(ValueError, match=r"unet3d.eeg_sources takes EEG, not images. .* zoo.locate_sources"):
        zoo.predict(model, zoo.sample())
    with pytest.raises(ValueError, match=r"unet3d.brain_mask does not locate sources, its output is 'segmentation'"):
        locator.Locator("unet3d.brain_mask", lead_field("sphere").montage(NAMES))


def test_peaks_take_the_largest_ball_first_and_stay_apart():
    positions = grid.grid()[0]
    probability = np.zeros(grid.NUM_PLACES)
    middle = int(np.linalg.norm(positions - positions.mean(0), axis=1).argmin())
    ring = np.flatnonzero(np.abs(np.linalg.norm(positions - positions[middle], axis=1) - 7) < 0.1)
    far = int(np.linalg.norm(positions - positions[middle], axis=1).argmax())
    probability[ring] = 0.5 / len(ring)  # spread out, but together more than the single peak
    probability[far] = 0.4
    places, masses = decode.peaks(probability, 2)
    assert np.linalg.norm(positions[places[0]] - positions[middle]) < 15 and places[1] in np.flatnonzero(
        np.linalg.norm(positions - positions[far], axis=1) <= 15
    )
    assert masses == pytest.approx([0.5, 0.4])
    single = decode.peaks(probability, 1, ball_mm=0.0)[0]
    assert single.tolist() == [far]
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        decode.peaks(probability, 6)


def test_refinement_finds_two_dipoles_from_places_nearby(sphere):
    positions = sphere.positions_mm
    true = [1500, 3800]
    data = dipole(sphere, true[0]) + dipole(sphere, true[1], (4, 15, -9))
    near = [np.flatnonzero(np.abs(np.linalg.norm(positions - positions[p], axis=1) - 7) < 1)[0] for p in true]
    fit_ = decode.refine(np.array(near), data, sphere.matrix)
    assert fit_.places.tolist() == true and fit_.explained == pytest.approx(1, abs=1e-6)
    assert fit_.moments[1] * 1e9 == pytest.approx([4, 15, -9], rel=1e-3)
    assert (fit_.own > 0.01).all()
    stays = decode.refine(np.array(near), data, sphere.matrix, reach_mm=0)
    assert stays.places.tolist() == near and stays.explained < 1


def test_a_model_of_linear_inverses_alone_still_locates(sphere, tmp_path):
    kernels = {"name": "eeg_kernels"}
    task = eeg_sources.TASK.replace(
        arguments={"filters": (2, 4), "norm": "none"}, divisor=(2, 2, 2), channels=CHANNELS, preprocessing=(kernels,)
    )
    (tmp_path / "config.json").write_text(json.dumps({"source": "synthetic", "seed": 0, "steps": 1}))
    model = model_card.publish(network.build(task, 1), task, tmp_path, progress={"seconds": 1.0})
    found = zoo.locate_sources(evoked(sphere, 2500), model=model)
    assert found.posterior.sum() == pytest.approx(1)


def test_a_map_that_sums_to_anything_has_its_share_in_the_posterior():
    posterior = np.full((2, grid.NUM_PLACES), 1 / grid.NUM_PLACES)
    current = np.zeros((2, grid.NUM_PLACES))
    current[:, 7] = [3.0, 0.2]
    found = decode.mixed(posterior, current, 0.6)
    assert found.sum(1) == pytest.approx([1, 1])
    assert found[:, 7] == pytest.approx(0.6 + 0.4 / grid.NUM_PLACES)


def test_the_fit_tells_how_many_sources_there_are(sphere):
    """Schwarz's criterion on one to three dipoles at 14 dB, near places that the map shows too many of."""
    random = np.random.default_rng(1)
    true = [600, 2500, 4300]
    probability = np.zeros(grid.NUM_PLACES)
    probability[true] = [0.5, 0.3, 0.2]
    probability[[1500, 3500]] = 0.1
    for number in (1, 2, 3):
        parts = [dipole(sphere, place, random.standard_normal(3)) for place in true[:number]]
        clean = np.sum([part / np.linalg.norm(part) for part in parts], axis=0)
        noise = random.standard_normal(len(NAMES)) * np.linalg.norm(clean) / np.sqrt(len(NAMES)) * 0.2
        told = decode.count_by_fit(probability, clean + noise - noise.mean(), sphere.matrix, reach_mm=0)
        assert told.sum() == pytest.approx(1) and told.argmax() + 1 == number, told
    few = decode.count_by_fit(probability, clean[:19] - clean[:19].mean(), sphere.matrix[:19], reach_mm=0)
    assert few.shape == (5,) and few[2:].tolist() == [0, 0, 0]


def test_what_a_card_says_is_what_a_locator_does(sphere, model):
    locating = locator.Locator(model, sphere)
    assert locating.settings == locator.SourceImagingSettings((4, 12), 0.6, 20.0, True)
    data = np.stack([dipole(sphere, 2500), dipole(sphere, 700)])
    posteriors, counts = locating(data)
    assert posteriors.sum(1) == pytest.approx([1, 1]) and posteriors.argmax(1).tolist() == [2500, 700]
    probable = locating.count(data[0], posteriors[0], counts[0])
    assert probable.sum() == pytest.approx(1) and probable[0] == 0 and counts.shape == (2, 6)


def test_a_network_that_gives_nan_is_an_error_and_no_source():
    blind = object.__new__(locator.Locator)
    blind.kernels = types.SimpleNamespace(apply=lambda batch: np.zeros((len(batch), 4, 4, 4, 2), np.float32))
    blind.network = lambda volumes: np.full((*volumes.shape[:4], 10), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"The network gives nan in channel 0 for topography 0, .* \(zoo verify\)"):
        blind(np.zeros((3, 19)))
