"""Heads, grid and lead fields: geometry by hand, potentials against closed forms and against mne's other way in."""

import numpy as np
import pytest

from zoo.eeg import grid, head_surfaces, leadfield

pytest.importorskip("mne", reason="EEG needs MNE-Python: pip install 'zoo3d[eeg]'")

MONTAGE = ("Fp1", "Fp2", "F7", "Fz", "F8", "T7", "Cz", "T8", "P7", "Pz", "P8", "O1", "O2")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def few():
    """26 places of the template, all over the brain."""
    return grid.grid()[0][100::200]


@pytest.fixture(scope="module")
def model():
    return leadfield.conductor(head_surfaces.head())


@pytest.mark.parametrize("grade", [0, 1, 3])
def test_icosphere(grade):
    directions, triangles = head_surfaces.icosphere(grade)
    assert len(directions) == 10 * 4**grade + 2
    assert len(triangles) == 20 * 4**grade
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    a, b, c = (directions[triangles[:, k]] for k in range(3))
    volume = (np.cross(a, b) * c).sum() / 6
    assert 0.6 * 4.18879 < volume < 4.18879  # closed and outward: nearly the ball's volume
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    np.testing.assert_array_equal(head_surfaces.icosphere(grade + 1)[0][: len(directions)], directions)


def test_rays_meet_an_ellipsoid_where_algebra_says():
    points, axes = head_surfaces.icosphere(4)[0], np.array([60.0, 90, 75])
    asked = head_surfaces.icosphere(2)[0][::5] @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    expected = 1 / np.linalg.norm(asked / axes, axis=1)
    np.testing.assert_allclose(head_surfaces.radius_towards(points * axes, 7 * asked), expected, rtol=4e-3)


def test_harmonics_are_orthonormal():
    height, weight = np.polynomial.legendre.leggauss(12)
    around = np.arange(24) * np.pi / 12
    side = np.sqrt(1 - height**2)[:, None]
    points = np.stack([side * np.cos(around), side * np.sin(around), np.tile(height[:, None], 24)], -1).reshape(-1, 3)
    values = head_surfaces.harmonics(points * 5)
    gram = values.T * np.repeat(weight * np.pi / 12, 24) @ values
    np.testing.assert_allclose(gram, np.eye(21), atol=1e-12)


def test_template_surfaces_are_nested_and_carry_the_electrodes():
    head = head_surfaces.head()
    radii = np.linalg.norm(head.surfaces_mm - head.warp.centre_mm, axis=2)
    gap = radii[2] - radii[0]
    assert gap.min() > 5
    assert gap.max() <= head_surfaces.GAP_MM + 1e-9
    np.testing.assert_allclose(radii[1] - radii[0], gap / 2, atol=1e-9)
    offset = head.electrodes_mm - head.warp.centre_mm
    on = head_surfaces.radius_towards(head.surfaces_mm[2] - head.warp.centre_mm, offset)
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), on, rtol=1e-6)
    assert len(head_surfaces.electrode_names()) == len(head.electrodes_mm) == 335
    left, right = (head_surfaces.electrode_names().index(name) for name in ("T7", "T8"))
    assert head.electrodes_mm[left, 0] < -70 < 70 < head.electrodes_mm[right, 0]


def test_grid_has_the_shape_that_networks_are_built_for():
    positions, mask, index = grid.grid()
    assert positions.shape == (5215, 3)
    assert mask.shape == (24, 28, 24)
    assert mask.sum() == 5215
    assert grid.depth_mm(positions).min() > 4.9
    voxels = np.c_[index, np.ones(5215)] @ grid.affine().T
    np.testing.assert_allclose(voxels[:, :3], positions, atol=1e-4)
    np.testing.assert_array_equal(np.argwhere(mask), index)


def test_values_go_into_the_box_and_back():
    values = np.random.default_rng(0).standard_normal((2, 5215))
    box = grid.to_box(values)
    assert box.shape == (2, 24, 28, 24)
    np.testing.assert_array_equal(grid.from_box(box), values)
    assert not box[:, ~grid.grid()[1]].any()


def test_a_seed_is_a_head_and_other_seeds_are_other_heads():
    first, again, other = head_surfaces.head(3), head_surfaces.head(3), head_surfaces.head(4)
    np.testing.assert_array_equal(first.surfaces_mm, again.surfaces_mm)
    assert np.abs(first.surfaces_mm - other.surfaces_mm).max() > 2
    assert 25 <= first.skull_ratio <= 80
    assert head_surfaces.head(3, skull_ratio=40).skull_ratio == 40


def test_the_family_keeps_its_layers_and_moves_places_with_them():
    positions = grid.grid()[0]
    for seed in range(6):
        head = head_surfaces.head(seed)
        radii = np.linalg.norm(head.surfaces_mm - head.warp.centre_mm, axis=2)
        assert (np.diff(radii, axis=0) > 2).all()
        offset = head.places(positions) - head.warp.centre_mm
        below = head_surfaces.radius_towards(head.surfaces_mm[0] - head.warp.centre_mm, offset) - np.linalg.norm(
            offset, axis=1
        )
        assert below.min() > 3


def test_the_warp_by_hand():
    flat = head_surfaces.Warp((1.0, 2, 3), (1.1, 1.0, 0.9), (0.0,) * 21)
    np.testing.assert_allclose(flat.apply(np.array([[11.0, 12, 13]])), [[12, 12, 12]])
    zonal = np.eye(21)[2] * 0.1  # degree 2, order 0: sqrt(5 / 16 pi) (3 cos^2 - 1)
    moved = head_surfaces.Warp((0, 0, 0), shape=tuple(zonal)).apply(np.array([[0.0, 0, 10], [10, 0, 0]]))
    factor = 0.1 * np.sqrt(5 / (16 * np.pi))
    np.testing.assert_allclose(moved, [[0, 0, 10 * (1 + 2 * factor)], [10 * (1 - factor), 0, 0]], atol=1e-12)


def test_columns_are_dipoles_along_the_axes_of_the_mri(model, few):
    """Against mne's fixed dipoles, another way into the same elements, turned into head coordinates by hand."""
    import mne

    head = head_surfaces.head()
    electrodes = dict(zip(head_surfaces.electrode_names(), head.electrodes_mm, strict=True))
    chosen = {name: electrodes[name] for name in MONTAGE}
    ours = leadfield.lead_field(points_mm=few, electrodes_mm=chosen)
    direction = np.random.default_rng(0).standard_normal((len(few), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    trans = mne.read_trans(head_surfaces.shipped("fsaverage-trans.fif"))["trans"]  # head to MRI
    inverse = np.linalg.inv(trans)
    times, ones = np.arange(len(few)) / 1e3, np.ones(len(few))
    pos = few / 1e3 @ inverse[:3, :3].T + inverse[:3, 3]
    dipoles = mne.Dipole(times, pos, ones, direction @ inverse[:3, :3].T, ones)
    info = leadfield.measurement_info(head, chosen)
    made, _ = mne.make_forward_dipole(
        dipoles, model, info, mne.transforms.Transform("head", "mri", trans), verbose="ERROR"
    )
    expected = made["sol"]["data"] - made["sol"]["data"].mean(0)
    found = np.einsum("cnd,nd->cn", ours.matrix, direction)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_boundary_elements_agree_with_the_closed_form_on_a_sphere():
    """The surfaces are written, turned and conduct as meant: three shells, against mne's sphere."""
    ball = head_surfaces.head("sphere")
    inner = head_surfaces.icosphere(1)[0] * 45 + ball.warp.centre_mm
    electrodes = dict(zip(head_surfaces.electrode_names(), ball.electrodes_mm, strict=True))
    chosen = {name: electrodes[name] for name in MONTAGE}
    exact = leadfield.forward(ball, inner, chosen)["sol"]["data"].reshape(len(MONTAGE), -1, 3)
    meshed = head_surfaces.Head("ball", ball.surfaces_mm, ball.electrodes_mm, ball.warp, ball.skull_ratio)
    solved = leadfield.forward(meshed, inner, chosen)["sol"]["data"].reshape(len(MONTAGE), -1, 3)
    solved = solved @ meshed.head_from_mri[:3, :3]
    exact, solved = exact - exact.mean(0), solved - solved.mean(0)
    ratio = np.linalg.norm(solved, axis=0) / np.linalg.norm(exact, axis=0)
    shape = solved / np.linalg.norm(solved, axis=0) - exact / np.linalg.norm(exact, axis=0)
    assert np.abs(np.log(ratio)).max() < 0.1
    assert np.linalg.norm(shape, axis=0).max() < 0.06


def test_a_montage_is_rows_against_their_own_average(few):
    whole = leadfield.lead_field("sphere", points_mm=few)
    part = whole.montage(["cz", "T3", "O2"])
    assert part.names == ("Cz", "T7", "O2")
    rows = whole.matrix[[whole.names.index(name) for name in part.names]]
    np.testing.assert_allclose(part.matrix, rows - rows.mean(0), atol=1e-3 * np.abs(rows).max())
    again = whole.montage(["Cz", "T7", "O2", "Fz"]).montage(part.names)
    np.testing.assert_allclose(again.matrix, part.matrix, atol=1e-4 * np.abs(rows).max())
    assert part.key != whole.key


def test_the_cache_answers_alike_and_survives_a_broken_file(few):
    first = leadfield.lead_field("sphere", points_mm=few)
    file = leadfield.cache_folder() / f"{first.key}.npz"
    before = file.stat().st_mtime_ns
    np.testing.assert_array_equal(leadfield.lead_field("sphere", points_mm=few).matrix, first.matrix)
    assert file.stat().st_mtime_ns == before
    file.write_bytes(file.read_bytes()[:500])
    np.testing.assert_array_equal(leadfield.lead_field("sphere", points_mm=few).matrix, first.matrix)
    other = leadfield.lead_field("sphere", points_mm=few, skull_ratio=25)
    assert other.key != first.key
    assert np.abs(other.matrix - first.matrix).max() > 0.05 * np.abs(first.matrix).max()


def test_half_precision_keeps_three_digits(monkeypatch):
    matrix = np.random.default_rng(0).standard_normal((7, 9, 3)).astype(np.float32) * np.logspace(-6, 6, 9)[:, None]
    found = leadfield.cached("digits", lambda: matrix)
    largest = np.abs(matrix).max((0, 2), keepdims=True)
    assert (np.abs(found - matrix) <= 5e-4 * largest).all()

    def never():
        raise AssertionError("the cache was not used")

    np.testing.assert_array_equal(leadfield.cached("digits", never), found)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: head_surfaces.head("colin"), "There is no head 'colin'"),
        (lambda: head_surfaces.head(-1), "There is no head -1"),
        (lambda: head_surfaces.head(True), "There is no head True"),
        (lambda: head_surfaces.head(skull_ratio=0.02), "10 to 200, got 0.02"),
        (lambda: leadfield.lead_field(skull_ratio=1000), "10 to 200, got 1000"),
        (lambda: leadfield.lead_field(grade=5), "grade is 3 or 4"),
        (lambda: leadfield.lead_field(points_mm=np.zeros(3)), r"shape \(n, 3\)"),
        (lambda: leadfield.lead_field(points_mm=[[0, 0, 200.0]]), "below the inner skull"),
        (lambda: leadfield.lead_field(points_mm=[[0, 0, np.nan]]), "must be finite"),
    ],
)
def test_bad_input_is_named(call, told):
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize(
    ("names", "told"), [(["Cz", "Fzz"], "Did you mean"), (["Cz", "cz"], "different channels"), ([], "got none")]
)
def test_bad_montages_are_named(names, told, few):
    with pytest.raises(ValueError, match=told):
        leadfield.lead_field("sphere", points_mm=few).montage(names)
