"""A cluster of processes on this machine, watched and restarted: for tests, and for machines with several sockets."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from zoo.training.network_namespace import other_interfaces, own_network

RESTARTS = 5


@dataclasses.dataclass
class Member:
    """One process of the cluster: its role and number, how often it was restarted, and the process itself."""

    role: str
    index: int
    process: subprocess.Popen
    restarts: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every process of a cluster is started with: the command, and all addresses."""

    command: Sequence[str]
    spec: Mapping[str, Sequence[str]]


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback address that no process listens on now.

    Example:
        >>> len(set(free_ports(3)))
        3
    """
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def cluster_spec(workers: int, parameter_servers: int = 0) -> dict[str, list[str]]:
    """Returns addresses by role; parameter servers bring a chief.

    Raises:
        ValueError: fewer than one worker, or a negative number of servers.
    """
    if workers < 1 or parameter_servers < 0:
        raise ValueError(
            f"A local cluster needs at least 1 worker and 0 servers, got {workers} and {parameter_servers}."
        )
    counts = {"worker": workers}
    if parameter_servers:
        counts |= {"ps": parameter_servers, "chief": 1}
    ports = iter(free_ports(sum(counts.values())))
    return {role: [f"127.0.0.1:{next(ports)}" for _ in range(count)] for role, count in counts.items()}


def launch(
    command: Sequence[str],
    *,
    workers: int,
    parameter_servers: int = 0,
    restarts: int = RESTARTS,
    open_ports: bool = False,
) -> int:
    """Runs a command in each process of a local cluster, each with its `TF_CONFIG`, until the work is done.

    Synchronous workers depend on each other: when one dies, all are started again and go on from the last state. Of
    an asynchronous cluster only the dead worker or chief is started again; a dead parameter server restarts all.

    TensorFlow's servers listen on every address of the machine and let in everyone. So the processes get a network of
    their own; where the system allows none, a machine that others can reach is refused.

    Args:
        command: what each process runs.
        workers: processes that compute gradients.
        parameter_servers: 0 for synchronous training.
        restarts: how often one process may be started again.
        open_ports: use the machine's own network, open to all who reach it.

    Returns:
        The exit code: 0 when the work is done, else that of the process that died too often.

    Raises:
        ValueError: bad numbers, or the servers would be open to others and `open_ports` is False.
    """
    spec = cluster_spec(workers, parameter_servers)
    with _closed_network(open_ports=open_ports) as inside:
        return _watch(Plan([*inside, *command], spec), parameter_servers > 0, restarts)


@contextmanager
def _closed_network(*, open_ports: bool) -> Iterator[list[str]]:
    """Yields the words that run a command in a network of its own; none where the machine's own may be used."""
    if open_ports:
        yield []
        return
    with own_network() as inside:
        if inside is None and (reachable := other_interfaces()):
            raise ValueError(
                f"The servers of a local cluster would be open on {', '.join(reachable)}: TensorFlow's ask for no "
                "password, and who reaches them can read and write your files. This system allows no network of their "
                "own. Train in one process, or add --open-ports on a network where you trust everyone."
            )
        yield inside or []


def _watch(plan: Plan, asynchronous: bool, restarts: int) -> int:
    """Starts all members, and dead ones again, until the leaders are done."""
    members = [_start_member(plan, role, i) for role, hosts in plan.spec.items() for i in range(len(hosts))]
    leaders = [member for member in members if member.role == ("chief" if asynchronous else "worker")]
    try:
        while any(member.process.poll() != 0 for member in leaders):
            for member in members:
                if member.process.poll() not in (None, 0):
                    if member.restarts >= restarts:
                        return member.process.returncode
                    _restart(plan, member, members)
            time.sleep(0.2)
        return 0
    finally:
        _kill_members(members)


def _start_member(plan: Plan, role: str, index: int) -> Member:
    config = json.dumps({"cluster": dict(plan.spec), "task": {"type": role, "index": index}})
    environment = os.environ | {"TF_CONFIG": config}
    return Member(role, index, subprocess.Popen(list(plan.command), env=environment))


def _restart(plan: Plan, dead: Member, members: list[Member]) -> None:
    alone = "chief" in plan.spec and dead.role in ("worker", "chief")
    print(f"{dead.role} {dead.index} ended with {dead.process.returncode}; starting it again.", file=sys.stderr)
    for member in [dead] if alone else members:
        _kill_members([member])
        member.process = _start_member(plan, member.role, member.index).process
        member.restarts += member is dead


def _kill_members(members: Sequence[Member]) -> None:
    for member in members:
        if member.process.poll() is None:
            member.process.kill()
    for member in members:
        member.process.wait()
