"""Clusters of real processes on this machine: synchronous, asynchronous, killed; and what TF_CONFIG may say."""

import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import safetensors.numpy
from support.local_network import cluster_options
from support.paths import SUPPORT

from zoo.training import cluster, fit, local_cluster
from zoo.training.run import checkpoint, run_folder

MEMBER = str(SUPPORT / "cluster_member.py")


def weights(path):
    return {key: value for key, value in safetensors.numpy.load_file(path).items() if key.startswith("model/")}


def launch(out, batch, **sizes):
    """The exit code of a cluster that trains the task of balls."""
    return local_cluster.launch([sys.executable, MEMBER, str(out), str(batch)], **sizes, **cluster_options())


def wait_for_step(out, step, seconds=120):
    for _ in range(seconds * 10):
        if (out / fit.LAST).exists() and checkpoint.progress(out / fit.LAST)["step"] >= step:
            return
        time.sleep(0.1)
    raise TimeoutError(f"no state at step {step} in {out}")


@pytest.mark.slow
def test_two_synchronous_workers_equal_one_on_the_joined_batch(tmp_path):
    assert launch(tmp_path / "two", 1, workers=2) == 0
    subprocess.run([sys.executable, MEMBER, str(tmp_path / "one"), "2"], check=True, capture_output=True)
    two, single = (weights(tmp_path / run / fit.LAST) for run in ("two", "one"))
    for key in single:
        np.testing.assert_allclose(two[key], single[key], atol=2e-5, err_msg=key)
    assert (tmp_path / "two" / "unet3d.ball" / "card.json").exists()


@pytest.mark.slow
def test_asynchronous_workers_learn_and_survive_the_death_of_one(tmp_path, monkeypatch):
    out, started = tmp_path / "run", []
    begin = local_cluster._start_member
    monkeypatch.setattr(local_cluster, "_start_member", lambda *args: started.append(begin(*args)) or started[-1])

    def kill_a_worker():
        wait_for_step(out, 25)
        next(member for member in started if member.role == "worker").process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    assert launch(out, 1, workers=2, parameter_servers=1) == 0
    killer.join()
    assert len(started) >= 5  # four members, and one of them twice
    rows = run_folder.read_log(out / "log.csv")
    assert rows[-1]["step"] == 50 and rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert (out / "unet3d.ball" / "card.json").exists()


@pytest.mark.slow
def test_a_killed_chief_goes_on(tmp_path, monkeypatch):
    out, started = tmp_path / "run", []
    begin = local_cluster._start_member
    monkeypatch.setattr(local_cluster, "_start_member", lambda *args: started.append(begin(*args)) or started[-1])

    def kill_the_chief():
        wait_for_step(out, 25)
        next(member for member in started if member.role == "chief").process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_the_chief)
    killer.start()
    assert launch(out, 1, workers=1, parameter_servers=1) == 0
    killer.join()
    assert run_folder.read_log(out / "log.csv")[-1]["step"] == 50


@pytest.mark.slow
def test_synchronous_workers_start_again_together_and_end_as_if_none_had_died(tmp_path, monkeypatch):
    out, started = tmp_path / "run", []
    begin = local_cluster._start_member
    monkeypatch.setattr(local_cluster, "_start_member", lambda *args: started.append(begin(*args)) or started[-1])

    def kill_the_second():
        wait_for_step(out, 25)
        next(member for member in started if member.index == 1).process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_the_second)
    killer.start()
    assert launch(out, 1, workers=2) == 0
    killer.join()
    assert len(started) == 4  # both, twice
    assert run_folder.read_log(out / "log.csv")[-1]["step"] == 50
    subprocess.run([sys.executable, MEMBER, str(tmp_path / "one"), "2"], check=True, capture_output=True)
    two, single = weights(out / fit.LAST), weights(tmp_path / "one" / fit.LAST)
    for key in single:
        np.testing.assert_allclose(two[key], single[key], atol=2e-5, err_msg=key)


SPEC = {"worker": ["a:1", "b:1"], "ps": ["c:1"], "chief": ["d:1"]}


def config(spec, role, index):
    return json.dumps({"cluster": spec, "task": {"type": role, "index": index}})


def test_places_in_a_cluster():
    assert cluster.here("") is None
    assert cluster.here(config({"worker": ["a:1"]}, "worker", 0)) is None
    two = {"worker": ["a:1", "b:1"]}
    assert cluster.here(config(two, "worker", 0)).writes and not cluster.here(config(two, "worker", 1)).writes
    chief, worker = (cluster.here(config(SPEC, role, 0)) for role in ("chief", "worker"))
    assert chief.writes and chief.asynchronous and not chief.serves and chief.num_workers == 2
    assert worker.serves and not worker.writes


@pytest.mark.parametrize(
    "text", ["not json", "{}", config(SPEC, "worker", 7), config({"ps": ["a:1"], "worker": ["b:1"]}, "ps", 0)]
)
def test_a_bad_description_is_refused(text):
    with pytest.raises(ValueError, match="TF_CONFIG"):
        cluster.here(text)


def test_a_local_cluster_needs_a_worker():
    with pytest.raises(ValueError, match="at least 1 worker and 0 servers, got 0 and 1"):
        local_cluster.cluster_spec(0, 1)
    assert len(set(local_cluster.free_ports(5))) == 5


def test_the_launcher_gives_up_on_a_member_that_keeps_dying():
    assert (
        local_cluster.launch([sys.executable, "-c", "raise SystemExit(3)"], workers=1, restarts=1, **cluster_options())
        == 3
    )
