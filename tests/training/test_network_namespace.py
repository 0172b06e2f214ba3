"""Processes of a local cluster have a network of their own, or do not start where others could reach them."""

import socket
import subprocess
import sys

import pytest

from zoo.training import local_cluster, network_namespace

LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@pytest.fixture
def inside():
    """Returns the words that run a command inside; skips where the system has no namespaces."""
    with network_namespace.own_network() as words:
        if words is None:
            pytest.skip("this system allows no network namespace")
        yield words


def test_children_reach_each_other_and_nobody_reaches_them(inside):
    child = subprocess.Popen(
        [*inside, sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    port = int(child.stdout.readline())
    connect = [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"]
    try:
        assert subprocess.run([*inside, *connect], check=False).returncode == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 2)
    finally:
        child.communicate("\n")


def test_only_the_loopback_address_is_inside(inside):
    listing = "import socket; print([name for _, name in socket.if_nameindex() if name != 'lo'])"
    code = f"from pathlib import Path; {listing}; print(Path('/proc/net/route').read_text().count(chr(10)))"
    done = subprocess.run([*inside, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "1"  # the head of the table: no route leads out


@pytest.fixture
def no_namespace(monkeypatch):
    """Makes a system that allows no namespace, on a machine with another address."""
    monkeypatch.setattr(network_namespace, "__file__", "/dev/null")
    monkeypatch.setattr(local_cluster, "other_interfaces", lambda: ["eth0"])


def test_a_machine_that_others_reach_is_refused_without_a_namespace(no_namespace):
    with pytest.raises(ValueError, match=r"open on eth0: TensorFlow's ask for no password.*add --open-ports"):
        local_cluster.launch([sys.executable, "-c", "raise SystemExit(3)"], workers=1)


def test_the_flag_and_a_machine_without_other_addresses_start(no_namespace, monkeypatch):
    done = [sys.executable, "-c", "pass"]
    assert local_cluster.launch(done, workers=2, open_ports=True) == 0
    monkeypatch.setattr(local_cluster, "other_interfaces", list)
    assert local_cluster.launch(done, workers=2) == 0
