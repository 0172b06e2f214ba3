"""Clusters, ranks, precision and recall, codes in windows, registration, and controls that are none."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score

from zoo.datasets.cases import Case
from zoo.evaluation import clusters
from zoo.models.siamese import siamese
from zoo.normative.encoding import make_encoder
from zoo.normative.lesion_map import check_controls
from zoo.reporting import projection
from zoo.synth.anatomy import common_space
from zoo.volumes import registration


def test_clusters_by_hand(tmp_path):
    z = np.zeros((12, 14, 16), np.float32)
    z[1:6, 1:5, 1:5] = 3.2  # 80 voxels
    z[8:11, 8:11, 8:12] = 5.0  # 36 voxels: too small
    z[2:6, 8:13, 8:13] = 4.0  # 100 voxels
    affine = np.diag([1, 1, 1, 1.0])
    affine[:3, 3] = [-5, 2, 7]
    first, second = clusters.find_clusters(z, affine)
    assert (first.rank, first.volume_mm3, first.peak_z) == (1, 100, 4)
    assert first.score == pytest.approx(100 * 10.36010, rel=1e-4)  # -log of the normal tail beyond 4
    assert second.volume_mm3 == 80
    assert first.centre_mm == (-3, 10, 15)
    assert len(clusters.find_clusters(z, affine, least_mm3=10)) == 3
    assert len(clusters.find_clusters(z, affine, top=1)) == 1
    ranks = clusters.map_ranks((first, second), z.shape)
    assert (ranks == 1).sum() == 100 and (ranks == 2).sum() == 80
    rows = clusters.write_clusters((first, second), tmp_path / "clusters.csv").read_text().splitlines()
    assert rows[0] == "rank,x_mm,y_mm,z_mm,volume_mm3,score,peak_z" and rows[1].startswith("1,-3.00,10.00,15.00,100.00")
    lesion = np.zeros(z.shape, bool)
    lesion[1, 1, 1] = True
    assert clusters.score_map(z, affine, lesion, np.ones(z.shape, bool)).rank == 2
    with pytest.raises(ValueError, match="over 0 and under 0.5, got 0.7"):
        clusters.find_clusters(z, affine, p=0.7)


def test_average_precision_against_scikit_learn():
    draw = np.random.default_rng(0)
    truth, scores = draw.random(500) < 0.1, np.round(draw.random(500), 2)
    assert clusters.average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert np.isnan(clusters.average_precision(scores, np.zeros(500, bool)))


def test_summary_counts_ranks():
    patients = [clusters.MapScore("a", rank, 3, 0.5) for rank in (1, 4, None, 7)]
    row = clusters.summarise_scores(patients, [clusters.MapScore("", None, count, np.nan) for count in (2, 4)])
    assert [row[f"sensitivity_within_{most}"] for most in (1, 3, 5, 10)] == [0.25, 0.25, 0.5, 0.75]
    assert row["clusters_a_control"] == 3 and row["auprc"] == 0.5


def test_a_cluster_of_half_a_brain_finds_nothing():
    lesion, inside = (np.zeros((20, 20, 20), bool) for _ in range(2))
    lesion[4:7, 4:7, 4:7], inside[1:-1, 1:-1, 1:-1] = True, True
    z = np.where(lesion, 5.0, 0.0)
    assert clusters.score_map(z, np.eye(4), lesion, inside, kind="flair").rank is None  # 27 mm^3
    assert clusters.score_map(z, np.diag([2, 2, 2, 1.0]), lesion, inside, kind="flair").rank == 1
    z[:10] = 4.0
    assert clusters.score_map(z, np.diag([2, 2, 2, 1.0]), lesion, inside, kind="flair").rank is None


def test_intervals_hold_the_mean():
    patients = [
        clusters.MapScore("flair", rank, 3, value) for rank, value in ((1, 0.5), (None, 0.1), (7, 0.3), (4, 0.9))
    ]
    intervals, row = clusters.bootstrap_intervals(patients), clusters.summarise_scores(patients)
    for key in ("auprc", "sensitivity_within_5"):
        assert intervals[f"{key}_low"] < row[key] < intervals[f"{key}_high"]
    assert intervals["auprc_low"] >= 0.1 and intervals["auprc_high"] <= 0.9


def test_coarse_mask_keeps_the_nearest_place():
    mask = np.zeros((10, 11, 12), bool)
    mask[4, 5, 7] = True
    coarse = clusters.coarsen_mask(mask, 3)
    assert coarse.shape == (4, 4, 4)
    assert np.argwhere(coarse).tolist() == [[1, 2, 2]]  # places 3, 6 and 6
    assert np.array_equal(clusters.coarsen_mask(mask, 1), mask)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_codes_of_a_volume_are_those_of_its_patches(step, monkeypatch):
    monkeypatch.setattr("zoo.normative.encoding.WINDOW", 12)
    model = siamese((None, None, None, 2), 6, filters=(3, 4, 5))
    volume = np.random.default_rng(0).standard_normal((19, 14, 26, 2)).astype("float32")
    codes = make_encoder(model, step=step)(volume)
    assert codes.shape == (*(-(-size // step) for size in (19, 14, 26)), 6)
    padded = np.pad(volume, [(7, 7)] * 3 + [(0, 0)])
    for place in np.random.default_rng(1).integers(0, codes.shape[:3], (12, 3)):
        patch = padded[tuple(slice(start, start + 15) for start in place * step)][None]
        expected = np.array(model.get_layer("encoder")(patch))[0, 0, 0, 0]
        np.testing.assert_allclose(codes[tuple(place)], expected, atol=1e-4)


def test_air_is_not_computed_but_has_its_code(monkeypatch):
    monkeypatch.setattr("zoo.normative.encoding.WINDOW", 6)
    model = siamese((None, None, None, 1), 4, filters=(3, 4, 5))
    volume = np.zeros((30, 6, 6, 1), np.float32)
    volume[:2] = 1
    codes = make_encoder(model, step=3)(volume)
    empty = np.array(model.get_layer("encoder")(np.zeros((1, 15, 15, 15, 1), np.float32)))[0, 0, 0, 0]
    np.testing.assert_allclose(codes[-1, 0, 0], empty, atol=1e-6)
    with pytest.raises(ValueError, match="1 voxel or more, got 0"):
        make_encoder(model, step=0)


def brains(seed=0, shape=(40, 36, 44)):
    """Soft maps of a few blobs, and the same moved by a known smooth warp."""
    draw = np.random.default_rng(seed)
    maps = np.stack([ndimage.gaussian_filter(draw.standard_normal(shape), 3) for _ in range(6)])
    maps = (maps > maps.std(axis=(1, 2, 3), keepdims=True) * 0.5).astype(np.float32)
    maps = np.stack([ndimage.gaussian_filter(tissue, 0.7) for tissue in maps])
    velocity = np.stack([ndimage.gaussian_filter(draw.standard_normal(shape), 6) for _ in range(3)]).astype(np.float32)
    known = registration.Warp(velocity * 5.0 / np.abs(velocity).max())
    return maps, registration.pulled(maps, known.displacement()), known


def test_registration_finds_a_known_warp():
    moving, fixed, known = brains()
    settings = registration.Settings(shrink=(2, 1), rounds=(40, 25))
    warp = registration.register(fixed, moving, settings)
    inner = (slice(None), *[slice(6, -6)] * 3)
    truth, field = known.displacement()[inner], warp.displacement()[inner]
    before, after = (np.sqrt(np.mean(np.sum(vectors**2, axis=0))) for vectors in (truth, field - truth))
    assert before > 1.0 and after < 0.35 * before
    back = registration.pulled(warp.displacement(inverse=True), warp.displacement()) + warp.displacement()
    assert np.abs(back[inner]).max() < 0.2
    slopes = np.stack([np.stack(np.gradient(vectors)) for vectors in warp.displacement()])
    assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)).min() > 0.2
    with pytest.raises(ValueError, match="of one shape, got"):
        registration.register(fixed, moving[:, 1:])


def test_a_brain_in_mni_space_goes_there_and_back_by_its_affine(monkeypatch):
    monkeypatch.setattr(common_space, "SHAPE", (40, 44, 48))
    volume = np.random.default_rng(0).random((20, 24, 26)).astype(np.float32)
    affine = common_space.AFFINE.copy()
    affine[:3, 3] += [8, 10, 12]
    way = common_space.by_affine(affine)
    carried = way.carry(volume)
    np.testing.assert_allclose(carried[8:28, 10:34, 12:38], volume, atol=1e-4)
    assert carried[:7].max() == 0
    np.testing.assert_allclose(way.back(carried, volume.shape), volume, atol=1e-4)


def controls(folder, count, *, spacing=(1.0, 1.0, 1.0), odd=None):
    codes_of_controls = []
    for number in range(count):
        sizes = odd if odd is not None and number == count - 1 else spacing
        files = {}
        for name in ("T1w", "FLAIR"):
            files[name] = folder / f"{number}_{name}.nii.gz"
            nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([*sizes, 1])).to_filename(files[name])
        codes_of_controls.append(Case(f"sub-{number:02d}", f"sub-{number:02d}", files))
    return codes_of_controls


def test_controls_that_are_none(tmp_path):
    names = ("T1w", "FLAIR")
    check_controls(controls(tmp_path, 10), names)
    with pytest.raises(ValueError, match="needs 10 controls or more, got 9"):
        check_controls(controls(tmp_path, 9), names)
    with pytest.raises(ValueError, match=r"sub-00 has \[1.0, 1.0, 1.0\] mm, sub-09 \[1.0, 1.0, 2.0\] mm"):
        check_controls(controls(tmp_path, 10, odd=(1, 1, 2.0)), names)
    cases = controls(tmp_path, 10)
    cases[3].tabular["group"] = "patient"
    with pytest.raises(ValueError, match="sub-03 is a patient .its table says 'patient'.*Take it out"):
        check_controls(cases, names)
    cases = controls(tmp_path, 10)
    nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)).to_filename(tmp_path / "lesion.nii.gz")
    cases[5] = Case("sub-05", "sub-05", cases[5].channels, tmp_path / "lesion.nii.gz")
    with pytest.raises(ValueError, match="sub-05 is a patient .a lesion is outlined"):
        check_controls(cases, names)
    cases = controls(tmp_path, 10)
    nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([1, 1, 1.5, 1])).to_filename(cases[2].channels["FLAIR"])
    with pytest.raises(ValueError, match="FLAIR of sub-02"):
        check_controls(cases, names)


def test_projection_shows_the_peak(tmp_path):
    affine = np.diag([1.0, 2.0, 1.5, 1])
    scan = nib.Nifti1Image(np.random.default_rng(0).random((12, 10, 8)).astype(np.float32), affine)
    values = np.zeros((12, 10, 8), np.float32)
    values[3, 4, 5] = 6
    path = tmp_path / "map.png"
    projection.write_projection(path, scan, nib.Nifti1Image(values, affine), threshold=3.1, title="one")
    assert path.read_bytes()[:4] == b"\x89PNG"
    figure = projection.draw_projection(scan, nib.Nifti1Image(values, affine), threshold=3.1)
    shown = [axes.images[1].get_array() for axes in figure.axes[:3]]
    assert [int(plane.count()) for plane in shown] == [1, 1, 1] and all(plane.max() == 6 for plane in shown)
    with pytest.raises(ValueError, match="grid"):
        projection.draw_projection(scan, nib.Nifti1Image(values[1:], affine), threshold=3.1)
