"""Histograms of structures: what is drawn is the density of the values."""

import numpy as np
import pytest

from zoo.reporting.histograms import draw_histogram


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 16, 20), (32, 8, 12)])
def test_lines_are_densities_with_sides_joined(shape):
    values = np.random.default_rng(0).normal(0.1, 0.02, shape)
    labels = np.zeros(shape, int)
    labels[:4], labels[-4:], labels[5:7] = 11, 50, 3
    values[-4:] += 10  # beyond the axis: counted into its last bin
    figure = draw_histogram(values, labels, {11: "left_caudate", 50: "right_caudate", 3: "cortex", 9: "absent"})
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["caudate", "cortex"]
    caudate, cortex = (patch.get_data() for patch in axis.patches)
    width = np.diff(caudate.edges)[0]
    assert caudate.values.sum() * width == pytest.approx(1) and cortex.values.sum() * width == pytest.approx(1)
    assert caudate.values[-1] * width == pytest.approx(0.5)
    middles = (cortex.edges[1:] + cortex.edges[:-1]) / 2
    assert (cortex.values * width * middles).sum() == pytest.approx(0.1, abs=0.002)


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match="share a grid"):
        draw_histogram(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), {})
