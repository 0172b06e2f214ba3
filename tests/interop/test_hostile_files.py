"""Older files from anywhere: nothing outside them is read, nothing in them executed, and a broken one is one error."""

import json
import shutil

import h5py
import numpy as np
import pytest
from support.paths import FIXTURES

from zoo.hub import safetensors_file
from zoo.interop import addons, keras2, local_h5, nobrainer
from zoo.interop.allowed_classes import forbidden_classes

FOLDER = FIXTURES / "addons"
KERNEL = "logits/logits/kernel:0"


@pytest.fixture
def volume(tmp_path):
    """A copy of a good model's file, and the shape of one of its kernels."""
    path = tmp_path / "volume.h5"
    shutil.copy(FOLDER / "volume.h5", path)
    with h5py.File(path) as file:
        return path, file["model_weights"][KERNEL].shape


def replace_kernel(path, put):
    with h5py.File(path, "a") as file:
        del file["model_weights"][KERNEL]
        put(file["model_weights"], KERNEL)


def external_link(group, name):
    group[name] = h5py.ExternalLink("secret.h5", "/numbers")


def soft_link(group, name):
    group[name] = h5py.SoftLink("/model_weights/first/first/kernel:0")


@pytest.mark.parametrize("link", [external_link, soft_link])
def test_links_are_not_followed(link, volume, tmp_path):
    path, shape = volume
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.ones(shape, np.float32)
    replace_kernel(path, link)
    with pytest.raises(ValueError, match=r"volume\.h5: .*kernel:0 is a (External|Soft)Link, .* is not followed"):
        addons.load(path)


def test_a_whole_group_may_be_no_link_either(volume, tmp_path):
    path, _ = volume
    shutil.copy(path, tmp_path / "secret.h5")
    with h5py.File(path, "a") as file:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink("secret.h5", "/model_weights")
    for load in (addons.load, nobrainer.load_unet):
        with pytest.raises(ValueError, match="model_weights is a ExternalLink"):
            load(path)


def test_bytes_of_other_files_do_not_become_weights(volume, tmp_path):
    path, shape = volume
    (tmp_path / "secret").write_bytes(b"password" * 1000)
    external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
    replace_kernel(path, lambda group, name: group.create_dataset(name, shape, "f4", external=external))
    with pytest.raises(ValueError, match=r"kernel:0 is stored in other files, which are not read\. Save"):
        addons.load(path)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.ones(shape, np.float32)
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(tmp_path / "secret.h5", "numbers", shape)
    replace_kernel(path, lambda group, name: group.create_virtual_dataset(name, layout))
    with pytest.raises(ValueError, match="kernel:0 is stored in other files"):
        addons.load(path)


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (
            {"shape": (1 << 40,), "dtype": "f4", "chunks": (1 << 20,)},
            r"shape \(1099511627776,\) is larger than 2048 MiB",
        ),
        ({"data": np.array(["text"], "S4")}, "is of dtype |S4, and plain numbers are expected"),
        ({"data": np.full((1, 1, 1, 10, 3), np.nan, "f4")}, r"holds nan at \[0, 0, 0, 0, 0\]"),
    ],
)
def test_arrays_that_are_no_weights_are_named(array, fault, volume):
    path, _ = volume
    replace_kernel(path, lambda group, name: group.create_dataset(name, **array))
    with pytest.raises(ValueError, match=fault.replace("|", r"\|")):
        addons.load(path)


def change_config(path, change):
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "StringLookup", "config": {"vocabulary": "/etc/hostname", "name": "logits"}},
        {"class_name": "TFSMLayer", "config": {"filepath": "/nowhere", "name": "logits"}},
        {"class_name": "TorchModuleWrapper", "config": {"module": "x", "name": "logits"}},
        {"class_name": "Lambda", "config": {"function": "x", "name": "logits"}},
        {
            "class_name": "Conv3D",
            "config": {
                "filters": 3,
                "kernel_size": 1,
                "name": "logits",
                "kernel_initializer": {
                    "module": "keras.layers",
                    "class_name": "StringLookup",
                    "config": {"vocabulary": "/etc/hostname"},
                    "registered_name": None,
                },
            },
        },
    ],
)
def test_layers_that_read_files_or_run_code_are_never_built(layer, volume, monkeypatch):
    path, _ = volume
    change_config(path, lambda layers: layers[-1].update(layer))
    monkeypatch.setattr(addons, "_can_build", lambda layer: pytest.fail("a layer was built"))
    with pytest.raises(ValueError, match=rf"cannot be built in Keras 3: logits \({layer['class_name']}\)"):
        addons.load(path)


def test_forbidden_classes_are_found_at_any_depth():
    plain = {"kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.1}}, "dtype": {"class_name": "Policy"}}
    assert forbidden_classes(plain) == []
    assert forbidden_classes({"cells": [{"a": {"class_name": "__lambda__"}}, {"class_name": "os>Hashing"}]}) == [
        "__lambda__",
        "os>Hashing",
    ]


def test_a_configuration_of_any_size_takes_no_memory(volume, monkeypatch):
    path, _ = volume
    change_config(path, lambda layers: layers[-1]["config"].update(filters=2_000_000_000))
    built = []
    run = safetensors_file.without_values
    monkeypatch.setattr(safetensors_file, "without_values", lambda function: (built.append(1), run(function))[1])
    with pytest.raises(ValueError, match=r"logits/kernel is \(1, 1, 1, 10, 3\), the layer has \(1, 1, 1, 10, 20000000"):
        addons.load(path)
    assert built == [1]


@pytest.mark.parametrize(
    "config", ["{", "[1]", "[" * 50_000, '{"config": 3}', '{"class_name": "Functional", "config": {}}']
)
def test_a_configuration_of_any_form_is_one_error(config, volume):
    path, _ = volume
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = config
    with pytest.raises(ValueError, match=r"volume\.h5"):
        addons.load(path)


@pytest.mark.parametrize(
    "loss", [{"class_name": "StringLookup", "config": {"vocabulary": "/etc/hostname"}}, 3, {"a": 1}]
)
def test_a_loss_that_is_none_is_refused(loss):
    with pytest.raises((ValueError, TypeError)):
        addons._loss(loss)


@pytest.mark.parametrize("part", [0, 1, 7, 100, 500, 900, 999])
def test_a_truncated_file_is_one_error(part, tmp_path):
    whole = (FOLDER / "compiled.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) * part // 1000])
    for load in (addons.load, addons.training, nobrainer.load_unet):
        with pytest.raises(ValueError, match=r"a\.h5 is (no HDF5 file|truncated or corrupt)"):
            load(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [np.zeros(3), np.array([b"a", b"b"]), 7])
def test_an_attribute_that_is_no_text_is_named(value, volume):
    path, _ = volume
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = value
    with pytest.raises(ValueError, match=r"volume\.h5: model_config is no text"):
        addons.load(path)
    with h5py.File(path, "a") as file:
        file["model_weights"]["first"].attrs["weight_names"] = np.zeros((2, 2))
        assert local_h5.read_names(file["model_weights"]["image"]) == []
        with pytest.raises(ValueError, match="/model_weights/first names no weights"):
            local_h5.read_names(file["model_weights"]["first"])


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xff" * 11, "a number has no end at byte 10"),
        (b"\x0a", "is no whole protocol buffer"),
        (b"\x0a\x7fabc", "a field of 127 bytes begins at byte 2 of 5"),
        (b"\x0b", "byte 1 begins a field of the unknown kind 3"),
        (field(1, field(5, b"\xff\xfe")), "is no whole protocol buffer"),
        (field(1, field(5, b"{")), "its configuration is not JSON"),
        (field(1, field(5, b"[]")), "its configuration is list, no object"),
        (field(1, b"\x08\x05\x11" + bytes(8) + b"\x1d" + bytes(4) + field(5, b"{}")), "holds a subclassed model"),
    ],
)
def test_a_malformed_protocol_buffer_is_one_error(content, fault, tmp_path):
    (tmp_path / "keras_metadata.pb").write_bytes(content)
    with pytest.raises(ValueError, match=fault):
        keras2.read(tmp_path)


def test_a_saved_model_with_a_broken_checkpoint_is_one_error(tmp_path):
    shutil.copytree(FOLDER / "plane", tmp_path / "plane")
    (index,) = (tmp_path / "plane" / "variables").glob("*.index")
    (data,) = (tmp_path / "plane" / "variables").glob("*.data-*")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 9])
    with pytest.raises(ValueError, match="announces weights of .* bytes and holds"):
        keras2.read(tmp_path / "plane")
    index.write_bytes(index.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"plane is no whole model of Keras 2 \("):
        keras2.read(tmp_path / "plane")


def test_a_name_leads_no_way_up(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b"] = np.ones(2)
        assert local_h5.read_array(file, "a/b").tolist() == [1, 1]
        for name in ("a/../a/b", "/a/b", "a", "c", "a/b/c"):
            with pytest.raises(ValueError, match="is no array"):
                local_h5.read_array(file, name)
