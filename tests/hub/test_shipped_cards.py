"""Every folder of `pretrained/`: card, files, recount, golden output; a new folder is picked up by itself."""

import pytest
from support.paths import ROOT

from zoo.hub import card_file, trained_models
from zoo.hub.model_readme import readme

PRETRAINED = ROOT / "pretrained"
FOLDERS = sorted(path for path in PRETRAINED.iterdir() if path.is_dir() and path.name[0] not in "._")
LIMIT_BYTES = 60e6

each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@each
def test_the_card_is_good_and_named_as_its_folder(folder):
    assert card_file.read(folder).name == folder.name


@each
def test_nothing_else_lies_in_the_folder(folder):
    card = card_file.read(folder)
    files = {
        "card.json",
        "README.md",
        card.weights.file,
        card.golden.file,
        *(attached.file for attached in card.attached),
    }
    assert {path.name for path in folder.iterdir()} - {"NOTICE"} == files


@each
def test_the_readme_is_that_of_the_card(folder):
    """If not, `tools/make_card pretrained/NAME` writes it anew."""
    assert (folder / "README.md").read_text(encoding="utf-8") == readme(card_file.read(folder))


@each
def test_it_verifies(folder):
    """Sizes, sha256, names, shapes, the recount of parameters and the golden output."""
    trained_models.verify(folder)


def test_all_of_pretrained_stays_small():
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) < LIMIT_BYTES
