"""A cluster of processes on this machine, watched and restarted: for tests, and for machines with several sockets."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

RESTARTS = 5


@dataclasses.dataclass
class Member:
    """One process of the cluster: its role and number, how often it was restarted, and the process itself."""

    role: str
    index: int
    process: subprocess.Popen
    restarts: int = 0


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


def launch(command: Sequence[str], *, workers: int, parameter_servers: int = 0, restarts: int = RESTARTS) -> int:
    """Runs a command in each process of a local cluster, each with its `TF_CONFIG`, until the work is done.

    Synchronous workers depend on each other: when one dies, all are started again and go on from the last state. Of
    an asynchronous cluster only the dead worker or chief is started again; a dead parameter server restarts all.

    Args:
        command: what each process runs.
        workers: processes that compute gradients.
        parameter_servers: 0 for synchronous training.
        restarts: how often one process may be started again.

    Returns:
        The exit code: 0 when the work is done, else that of the process that died too often.
    """
    spec = cluster_spec(workers, parameter_servers)
    members = [_start_member(command, spec, role, i) for role, hosts in spec.items() for i in range(len(hosts))]
    leaders = [member for member in members if member.role == ("chief" if parameter_servers else "worker")]
    try:
        while any(member.process.poll() != 0 for member in leaders):
            for member in members:
                if member.process.poll() not in (None, 0):
                    if member.restarts >= restarts:
                        return member.process.returncode
                    _restart(command, spec, member, members)
            time.sleep(0.2)
        return 0
    finally:
        _kill_members(members)


def _start_member(command: Sequence[str], spec: Mapping[str, Sequence[str]], role: str, index: int) -> Member:
    config = json.dumps({"cluster": dict(spec), "task": {"type": role, "index": index}})
    return Member(role, index, subprocess.Popen(list(command), env=os.environ | {"TF_CONFIG": config}))


def _restart(command: Sequence[str], spec: Mapping[str, Sequence[str]], dead: Member, members: list[Member]) -> None:
    alone = "chief" in spec and dead.role in ("worker", "chief")
    print(f"{dead.role} {dead.index} ended with {dead.process.returncode}; starting it again.", file=sys.stderr)
    for member in [dead] if alone else members:
        _kill_members([member])
        member.process = _start_member(command, spec, member.role, member.index).process
        member.restarts += member is dead


def _kill_members(members: Sequence[Member]) -> None:
    for member in members:
        if member.process.poll() is None:
            member.process.kill()
    for member in members:
        member.process.wait()
