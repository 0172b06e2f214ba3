"""Cards: a round trip, and every fault named."""

import ast
import dataclasses
import json
import re
import subprocess
import sys

import pytest
from support.cards import tiny_card
from support.scripts import load_script

from zoo.hub import card_file
from zoo.hub.card import Attached, Channel, Golden, Input, Label, Output, Weights
from zoo.hub.model_readme import readme


def complete(**changes):
    measured = {
        "parameters": 12345,
        "weights": Weights("weights.safetensors", 24_000_000, "a" * 64, "float16"),
        "golden": Golden("golden.npz", 10, "b" * 64),
    }
    return tiny_card(**{**measured, **changes})


def test_a_card_comes_back_equal(tmp_path):
    card = complete()
    path = card_file.write(card, tmp_path)
    assert path == tmp_path / "card.json"
    assert card_file.read(path) == card_file.read(tmp_path) == card
    assert card_file.read(path).arguments["input_shape"] == (None, None, None, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_labels_are_keyed_by_index_in_the_file(tmp_path):
    plain = json.loads(card_file.write(complete(), tmp_path).read_text())
    assert plain["output"]["labels"]["1"] == {"name": "left", "value": 17}
    assert plain["input"]["channels"][0] == {"name": "T1w", "intensity": "z-score"}


def test_every_structural_fault_is_named(tmp_path):
    path = card_file.write(complete(), tmp_path)
    plain = json.loads(path.read_text())
    del plain["licence"]
    plain["licens"] = "MIT"
    plain["input"]["patch"] = [16, 24]
    plain["input"]["channels"][1]["intensity"] = 3
    plain["training"]["synthetic"] = 1
    plain["output"]["labels"]["x"] = {"name": "a", "value": 1}
    plain["limits"] = "none"
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match="7 fault") as error:
        card_file.read(path)
    for part in (
        "licence is missing",
        "no field 'licens'. Did you mean 'licence'?",
        "input.patch must be a list of 3, got [16, 24]",
        "input.channels[1].intensity must be str, got 3",
        "training.synthetic must be bool, got 1",
        "output.labels must have whole numbers as keys",
        "limits must be a list, got 'none'",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": "unet3d.test"}, "name must be 'tiny.tag'"),
        ({"name": "tiny"}, "name must be 'tiny.tag'"),
        ({"version": "1.0"}, "version must be like '1.0.0', got '1.0'"),
        ({"version": "1.1.0"}, "changelog must have the present version '1.1.0'"),
        ({"intended_use": " "}, "intended_use must not be empty"),
        ({"limits": ()}, "limits must name at least one"),
        ({"references": ("https://doi.org/10.1/2",)}, "references must be DOIs"),
        ({"arguments": {"input_shape": (None, None, None, 1)}}, "must end in the 2 channels"),
        ({"arguments": {"num_classes": 4}}, "must name the 4 classes"),
        ({"arguments": {"a": float("nan")}}, "arguments.a must be text, a finite number"),
        ({"arguments": {"a": object}}, "arguments.a must be text"),
        ({"output": Output("segmentation", "softmax", {1: Label("a", 1)})}, "must count from 0"),
        ({"output": Output("segmentation", "softmaxx", {0: Label("a", 1)})}, "Did you mean 'softmax'?"),
        ({"output": Output("map", "linear")}, "There is no kind 'map'"),
        ({"metrics": {"x": {"dice": 0.5}}}, "metrics.x.n must count the cases"),
        ({"metrics": {"x": {"dice": float("inf"), "n": 2}}}, "metrics.x.dice must be finite"),
        ({"parameters": None}, "parameters must be measured"),
        ({"weights": Weights("../w", 0, "A", "int8")}, "plain file name beside the card, got '../w'"),
        ({"weights": Weights("w", 0, "A", "int8")}, "weights.bytes must be 1 or more"),
        ({"weights": Weights("w", 0, "A", "int8")}, "weights.sha256 must be 64 hexadecimal"),
        ({"weights": Weights("w", 0, "A", "int8")}, "There is no dtype 'int8'"),
        ({"golden": Golden("card.json", 1, "a" * 64)}, "golden.file must be a plain file name"),
        ({"golden": Golden("card.json.new", 1, "a" * 64)}, "golden.file must be a plain file name"),
        ({"weights": Weights("readme.MD", 1, "a" * 64, "float16")}, "weights.file must be a plain file name"),
        ({"attached": (Attached("/etc/x", 1, "a" * 64),)}, "attached.file must be a plain file name"),
        ({"attached": (Attached("..", 1, "a" * 64),)}, "attached.file must be a plain file name"),
        ({"attached": (Attached("Golden.npz", 1, "a" * 64),)}, "must be files of different names, got"),
    ],
)
def test_a_fault_in_sense_is_named_and_not_written(changes, part, tmp_path):
    with pytest.raises(ValueError) as error:
        card_file.write(complete(**changes), tmp_path)
    assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"orientation": "LPS"}, "orientation must be 'RAS', got 'LPS'"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm must be positive"),
        ({"divisor": (0, 1, 1)}, "divisor must be 1 or more"),
        ({"patch": (16, 24, 30)}, "must be positive multiples of (4, 4, 4), got (16, 24, 30)"),
        ({"channels": ()}, "input.channels must be one or more"),
    ],
)
def test_a_fault_of_the_input_is_named(changes, part):
    card_input = dataclasses.replace(tiny_card().input, **changes)
    with pytest.raises(ValueError) as error:
        card_file.check(complete(input=card_input))
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"commit": "main"}, "training.commit must be 7 to 40 hexadecimal digits, got 'main'"),
        ({"steps": -1}, "training.steps must be 0 or more, got -1"),
        ({"data": ""}, "training.data must not be empty"),
    ],
)
def test_a_fault_of_the_training_is_named(changes, part):
    card_training = dataclasses.replace(tiny_card().training, **changes)
    with pytest.raises(ValueError) as error:
        card_file.check(complete(training=card_training))
    assert part in str(error.value)


def test_a_card_about_to_be_saved_needs_nothing_measured():
    card_file.check(tiny_card(), complete=False)
    with pytest.raises(ValueError, match="parameters, weights, golden must be measured"):
        card_file.check(tiny_card())


@pytest.mark.parametrize("content", [b"", b'{"name": "ti', b"\xff\xfe"])
def test_a_truncated_card_says_so(content, tmp_path):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"card\.json is not JSON .* truncated"):
        card_file.read(tmp_path)


def test_a_card_that_is_a_list_says_so():
    with pytest.raises(ValueError, match="must be an object of named fields"):
        card_file.parse(b"[]", "here")


def test_no_card_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no card at"):
        card_file.read(tmp_path)


def test_the_readme_tells_what_the_card_tells():
    text = readme(complete())
    for part in (
        "# tiny.test",
        "**Trained on synthetic images.** Version 1.0.0, 12,345 parameters, 24.0 MB (float16)",
        'zoo.predict("tiny.test", {"T1w": "T1w.nii.gz", "FLAIR": "FLAIR.nii.gz"})',
        "| 1 | left | 17 |",
        "voxels 1 x 1 x 2.5 mm",
        "1. z_score (mask = nonzero)",
        "| phantom | dice | 0.9123 | 3 |",
        "https://doi.org/10.48550/arXiv.1606.06650",
        "- Sees nothing.",
    ):
        assert part in text
    assert text.endswith("\n") and "None" not in text


def test_a_text_of_the_card_is_no_html_no_code_and_no_front_matter():
    evil = '<script src="http://x">alert(1)</script><!-- <img src=x> a < b < 5'
    channels = (Channel('T1"}); import os; os.remove("x', evil), Channel("FLAIR", "any"))
    training = dataclasses.replace(tiny_card().training, data=evil, command="zoo train `rm` <task>")
    text = readme(
        complete(
            description=evil,
            licence="MIT\n---\nlibrary_name: evil",
            limits=(evil,),
            input=Input(channels, (16, 24, 32), (4, 4, 4)),
            training=training,
            tables={evil: ({evil: "a|b\nc"},)},
        )
    )
    assert not re.search(r"<[a-zA-Z/!]", text.replace("`` zoo train `rm` <task> ``", ""))
    assert text.count("&lt;script") == 6 and "a < b < 5" in text
    assert "| a\\|b c |" in text
    assert text.splitlines()[1] == r'license: "MIT\n---\nlibrary_name: evil"'
    example = next(line for line in text.splitlines() if line.startswith("image = "))
    (call,) = ast.parse(example).body  # one statement: the call
    assert ast.literal_eval(call.value.args[1])['T1"}); import os; os.remove("x'].endswith('("x.nii.gz')


def test_the_readme_leaves_out_what_is_not_known():
    training = dataclasses.replace(tiny_card().training, synthetic=False, seed=None, minutes=None)
    text = readme(complete(training=training, references=(), metrics={}, preprocessing=()))
    assert "**Trained on real images.**" in text and "None measured yet." in text
    for absent in ("Seed", "References", "Before the network", "Minutes"):
        assert absent not in text


def test_tables_of_gates_are_shown_below_the_results(tmp_path):
    tool = load_script("tools/make_card")
    gate = {"name": "finds it", "goal": "> 0.5", "measured": "0.7 +- 0.1", "passed": False, "remark": ""}
    rows = [{"setting": "ELU", "F1": 0.5}, {"setting": "ReLU", "seeds": 1}]
    results = {"criteria": [gate], "tables": {"Ablation": rows}, "settings": {"seeds": 3, "steps": 10}}
    (tmp_path / "study.json").write_text(json.dumps(results))
    card = complete(tables=tool.tables(tmp_path / "study.json"))
    card_file.check(card)
    text = readme(card)
    assert "## Gates\n| gate | goal | measured |  |" in text and "| finds it | > 0.5 | 0.7 +- 0.1 | MISSED |" in text
    assert "## Ablation\n| setting | F1 | seeds |\n| --- | --- | --- |\n| ELU | 0.5 |  |\n| ReLU |  | 1 |" in text
    assert "| seeds 3; steps 10 |" in text
    assert text.index("## Results") < text.index("## Gates") < text.index("## Training")


def test_no_readme_before_the_weights():
    with pytest.raises(ValueError, match="has no weights yet"):
        readme(tiny_card())


def test_listing_loads_neither_tensorflow_nor_keras_nor_numpy():
    code = (
        "import sys, zoo; zoo.list_models(); zoo.Card;"
        "print([m for m in ('tensorflow', 'keras', 'jax', 'numpy', 'filelock') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
