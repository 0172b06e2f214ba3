"""Windows through `zoo.locate_sources`: several sources with their own courses, pairs, regions, the report."""

import nibabel
import numpy as np
import pytest

import zoo
from zoo.eeg import bank, grid
from zoo.eeg.leadfield import lead_field
from zoo.source_imaging import answer, head_model, regions, source_report, window_answer
from zoo.source_imaging.noise import unknown_noise

mne = pytest.importorskip("mne")
NAMES = tuple(bank.montage_names("biosemi32"))
TRUE_MM = ((-40.0, -20.0, 50.0), (45.0, -60.0, 35.0))
PLACES = tuple(int(np.linalg.norm(grid.grid()[0] - place, axis=1).argmin()) for place in TRUE_MM)
TIMES = np.arange(150)
COURSES = np.exp(-0.5 * ((TIMES - np.array([[85], [97]])) / 6) ** 2)
MOMENTS = np.array([[20.0, -40.0, 10.0], [30.0, 10.0, 20.0]])
WINDOW = (0.1, 0.24)


@pytest.fixture(scope="module")
def sphere():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_model, "lead_field", lambda **given: lead_field("sphere", **given))
        yield lead_field("sphere").montage(NAMES)


def recording(field, strengths=(1.0, 1.0), *, noise=0.5e-6, baseline=True, places=PLACES):
    columns = np.einsum("csd,sd->cs", field.matrix[:, list(places)].astype(float), MOMENTS * 1e-9)
    clean = columns @ (np.array(strengths)[:, None] * COURSES)
    data = clean + noise * np.random.default_rng(0).standard_normal(clean.shape)
    info = mne.create_info(list(NAMES), 250.0, "eeg", verbose="ERROR")
    made = mne.EvokedArray(data, info, tmin=-0.2, verbose="ERROR")
    return made.apply_baseline((None, 0), verbose="ERROR") if baseline else made


@pytest.fixture(scope="module")
def located(sphere):
    return zoo.locate_sources(recording(sphere), times=WINDOW)


def test_two_sources_have_their_own_places_and_courses(sphere, located):
    assert located.method == "sparse_bayes" and located.status == "located" and located.counts.argmax() == 2
    true = sphere.positions_mm[list(PLACES)]
    found = np.array([source.mri_mm for source in located.sources])
    distance = np.linalg.norm(found[:, None] - true[None], axis=2)
    order = distance.argmin(1)
    assert sorted(order) == [0, 1] and distance.min(1).max() < 8
    for row, source in enumerate(order):
        peak = int(np.abs(located.courses_nam[row]).argmax())
        assert abs(peak - (85, 97)[source]) <= 3
        assert located.moments_nam[row, :, peak] == pytest.approx(MOMENTS[source], abs=15)
        assert located.sources[row].moment_nam == pytest.approx(MOMENTS[source], abs=15)
        assert 0.3 < located.sources[row].credible_ml < 20 and located.sources[row].confidence > 0.9
    assert located.moments_nam.shape == (2, 3, 150) and located.places.sum(1) == pytest.approx([1, 1])
    assert located.posterior == pytest.approx(located.places.mean(0))
    assert located.estimate.data.shape == (grid.NUM_PLACES, 36)
    volume = located.subject_image()
    peak = np.unravel_index(np.asarray(volume.dataobj).argmax(), volume.shape)
    place = grid.grid()[0][located.posterior.argmax()]
    assert (volume.affine @ [*peak, 1])[:3] == pytest.approx(place, abs=0.01) and not located.own_head
    assert {"credible_ml", "confidence"} <= set(located.table()[0]) and located.summary()["method"] == "sparse_bayes"


def test_noise_in_a_window_has_no_source(sphere):
    found = zoo.locate_sources(recording(sphere, (0.0, 0.0)), times=WINDOW, count=2)
    assert found.status == "no source above noise" and not found.sources and found.counts[0] == 1
    assert found.posterior.sum() == pytest.approx(1) and found.courses_nam.shape[0] == 0
    paired = zoo.locate_sources(recording(sphere, (0.0, 0.0)), times=WINDOW, count="pair")
    assert "the 2 that were asked for are not given" in paired.notes[-1]


def test_a_window_shows_its_own_noise_where_there_is_no_baseline(sphere):
    made = recording(sphere, baseline=False).crop(0.0, None)
    found = zoo.locate_sources(made, times=WINDOW)
    assert found.evidence.noise == "unknown" and found.evidence.residual is None and found.evidence.chance < 1e-6
    nearest = min(np.linalg.norm(sphere.positions_mm[PLACES[0]] - source.mri_mm) for source in found.sources)
    assert len(found.sources) == 2 and nearest < 8


def test_a_single_time_can_go_to_sparse_bayes_and_a_method_must_exist(sphere):
    found = zoo.locate_sources(recording(sphere, (1.0, 0.0)), times=0.14, method="sparse_bayes", count=1)
    assert np.linalg.norm(sphere.positions_mm[PLACES[0]] - found.sources[0].mri_mm) < 12
    with pytest.raises(ValueError, match="method"):
        zoo.locate_sources(recording(sphere), method="music")
    with pytest.raises(ValueError, match="networks know of no symmetry"):
        zoo.locate_sources(recording(sphere), method="network", count="pair")
    with pytest.raises(ValueError, match="1 to 5, \"pair\" or None, got 'two'"):
        zoo.locate_sources(recording(sphere), count="two")


def test_a_pair_is_two_mirrored_sources(sphere):
    positions = grid.grid()[0]
    left = int(np.linalg.norm(positions - [-45, -20, 5], axis=1).argmin())
    right = int(np.linalg.norm(positions - positions[left] * [-1, 1, 1], axis=1).argmin())
    found = zoo.locate_sources(recording(sphere, places=(left, right)), times=WINDOW, count="pair")
    one, other = (np.array(source.mri_mm) for source in found.sources)
    assert np.abs(one * [-1, 1, 1] - other).max() <= 7 and found.method == "sparse_bayes"


def test_regions_are_named_by_any_label_map(located):
    """Label 3 left of the midline, 4 right of it, nothing elsewhere."""
    labels = np.full((40, 48, 40), 4, np.int16)
    labels[:20] = 3
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-97.5, -120, -80]
    atlas = nibabel.Nifti1Image(labels, affine)
    rows = regions.name_regions(located, atlas, {3: "left"})
    for number, source in enumerate(located.sources, start=1):
        first = next(row for row in rows if row["source"] == number)
        assert first["region"] == ("left" if source.mni_mm[0] < 0 else "4") and first["probability"] > 0.5
    courses = regions.region_courses(located, atlas, {3: "left"})
    assert sum(courses.values()) == pytest.approx(located.courses_nam.sum(0), rel=0.1, abs=3)
    with pytest.raises(ValueError, match="label map of whole numbers in three dimensions"):
        regions.name_regions(located, nibabel.Nifti1Image(np.full((4, 4, 4), 0.5), affine))


def test_the_report_is_one_page_with_sources_and_pictures(located, tmp_path):
    path = source_report.write_report(located, tmp_path / "sub-01.html", title="sub-01 <spikes>")
    page = path.read_text()
    assert "sub-01 &lt;spikes&gt;" in page and page.count("data:image/png;base64,") == 2
    assert "http" not in page.split("</style>")[-1] and "credible_ml" in page


def test_the_smallest_region_is_one_place():
    one = np.zeros(grid.NUM_PLACES)
    one[7] = 1
    assert answer.credible_ml(one) == pytest.approx(0.343)
    assert answer.credible_ml(np.full(100, 0.01)) == pytest.approx(95 * 0.343)


def test_few_samples_of_unknown_noise_are_taken_for_mostly_signal():
    data = np.random.default_rng(0).standard_normal((19, 3))
    scaled = window_answer.scale_unknown(unknown_noise(19), data - data.mean(0))
    power = np.square(scaled.matrix @ data).sum() / (18 * 3)
    assert power == pytest.approx(1 / 0.15, rel=1e-6)
