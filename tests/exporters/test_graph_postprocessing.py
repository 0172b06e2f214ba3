"""Post-processing in the graph against that of `zoo.predict`, on maps where every rule bites."""

import cc3d
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.cards import PARTS
from support.datasets import oblique_affine, waves_in_air
from support.trained_models import save_to_export

import zoo
from zoo.evaluation.candidates import find_candidates
from zoo.exporters.saved_model import graph_candidates, graph_components, graph_postprocessing
from zoo.hub.card import Step
from zoo.inference.postprocessing import postprocess

SPACING_MM = (1.0, 1.0, 2.0)


@pytest.fixture(scope="module")
def labels():
    """Noise in a box that leaves air around it, and a cube with a hole."""
    draw = np.random.default_rng(5)
    inner = np.where(draw.random((12, 10, 14)) < 0.3, draw.choice([10, 260], (12, 10, 14)), 0)
    inner[2:7, 2:7, 2:7] = 260
    inner[4, 4, 4] = 0
    return np.pad(inner, ((2, 3), (1, 0), (0, 4))).astype(np.int16)


def in_tensorflow(labels, steps, spacing_mm=SPACING_MM):
    """Op by op, which starts sooner than a graph."""
    spacing = tf.constant(spacing_mm, tf.float64)
    return graph_postprocessing.postprocess(tf.constant(labels), steps, PARTS, spacing).numpy()


STEPS = [
    (Step("largest_component"),),
    (Step("largest_component", {"labels": ("left_part",), "connectivity": 6}), Step("fill_holes")),
    (Step("largest_component", {"labels": ("left_part", "right_part"), "connectivity": 18}),),
    (Step("fill_holes", {"labels": ("right_part",)}), Step("within_input")),
    (Step("remove_small", {"minimum_ml": 0.012}),),
    (Step("select_candidates", {"labels": ("left_part",), "diameter_mm": (1.0, 5.0), "elongation": 2.0}),),
]


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_steps_are_those_of_predict(steps, labels):
    expected = postprocess(labels, steps, PARTS, spacing_mm=SPACING_MM)
    assert not np.array_equal(expected, labels)
    np.testing.assert_array_equal(in_tensorflow(labels, steps), expected)


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_map_without_anything_stays_so(steps):
    np.testing.assert_array_equal(in_tensorflow(np.zeros((5, 6, 7), np.int16), steps), np.zeros((5, 6, 7)))


def test_one_trace_serves_maps_of_all_sizes(labels):
    steps = [step for group in STEPS[3:] for step in group]

    @tf.function(input_signature=[tf.TensorSpec([None] * 3, tf.int16)])
    def traced(labels):
        return graph_postprocessing.postprocess(labels, steps, PARTS, tf.constant(SPACING_MM, tf.float64))

    for label_map in (labels, labels[3:, :, 2:9], np.zeros((5, 6, 7), np.int16)):
        expected = postprocess(label_map, steps, PARTS, spacing_mm=SPACING_MM)
        np.testing.assert_array_equal(traced(tf.constant(label_map)), expected)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_components_are_cc3ds_and_numbered_by_their_first_voxel(connectivity):
    mask = np.random.default_rng(0).random((11, 8, 9)) < 0.25
    numbered = graph_components.number_components(tf.constant(mask), connectivity).numpy()
    expected = cc3d.connected_components(mask, connectivity=connectivity)
    roots = graph_components.component_roots(tf.constant(numbered)).numpy()
    assert len(roots) == expected.max()
    np.testing.assert_array_equal(np.searchsorted(roots, numbered, side="right") * (numbered > 0), expected)
    np.testing.assert_array_equal(numbered.ravel()[roots - 1], roots)


def test_a_winding_path_is_one_component():
    mask = np.zeros((9, 9, 3), bool)
    for row in range(0, 9, 2):
        mask[row, :, 1] = True
        mask[row + 1 : row + 2, -1 if row % 4 == 0 else 0, 1] = True
    assert len(np.unique(graph_components.number_components(tf.constant(mask), 6))) == 2


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equal_components_the_first_stays_whatever_the_order_of_memory(order):
    labels = np.zeros((6, 7, 8), np.int16, order=order)
    labels[0, 5, 1], labels[4, 0, 0] = 10, 10
    steps = (Step("largest_component"),)
    for result in (in_tensorflow(labels, steps), postprocess(labels, steps, PARTS, spacing_mm=SPACING_MM)):
        assert np.argwhere(result).tolist() == [[0, 5, 1]]


def test_size_and_shape_are_those_of_candidates():
    mask = np.random.default_rng(3).random((9, 12, 10)) < 0.12
    mask[2:7, 3:6, 4] = True
    spacing = (0.7, 1.1, 2.3)
    numbers = graph_components.number_components(tf.constant(mask))
    result = graph_candidates.measure_components(numbers, tf.constant(spacing, tf.float64))
    expected = find_candidates(mask.astype(np.float32), np.diag([*spacing, 1.0]))
    assert len(expected) > 20
    both = np.transpose([result.diameter_mm.numpy(), result.elongation.numpy()])
    described = np.array([(candidate.diameter_mm, candidate.elongation) for candidate in expected])
    np.testing.assert_allclose(
        both[np.lexsort(both.T.round(9))], described[np.lexsort(described.T.round(9))], rtol=1e-9
    )


@pytest.mark.parametrize("spacing", [0.9, float(np.float32(0.9)), 0.9 * (1 + 1e-9)])
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 4, 2), (3, 3, 6)])
def test_what_lies_on_the_bound_is_kept(shape, spacing):
    labels = np.zeros((8, 9, 10), np.int16)
    labels[tuple(slice(1, 1 + n) for n in shape)] = 10
    steps = (Step("select_candidates", {"diameter_mm": (0.5, 9.0), "elongation": 2.0}),)
    spacing_mm = (spacing, 0.9, 0.9)
    for result in (
        in_tensorflow(labels, steps, spacing_mm),
        postprocess(labels, steps, PARTS, spacing_mm=spacing_mm),
    ):
        np.testing.assert_array_equal(result, labels)


def test_nothing_is_found_where_there_is_no_image(tmp_path):
    folder = save_to_export(tmp_path, preprocessing=(), postprocessing=(Step("within_input"),))
    out = zoo.export(folder, tmp_path / "served")
    scan = waves_in_air((21, 18, 16), oblique_affine())
    data = np.asarray(scan.dataobj) / 30
    data[8:12] = 0
    scan = nibabel.Nifti1Image(data, scan.affine)
    inputs = {"volume": tf.constant(data[..., None]), "spacing_mm": tf.zeros(3)}
    inputs["affine"] = tf.constant(scan.affine, tf.float32)
    result = tf.saved_model.load(str(out)).signatures["serving_default"](**inputs)
    expected = np.asanyarray(zoo.predict(folder, scan).dataobj)
    assert not result["labels"].numpy()[data == 0].any() and len(np.unique(expected)) > 1
    assert np.mean(result["labels"].numpy() == expected) >= 0.999
    expected = np.asanyarray(zoo.predict(folder, scan, probabilities=True).dataobj)
    np.testing.assert_allclose(result["probabilities"], expected, atol=1e-3)
