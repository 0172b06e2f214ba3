"""What every benchmark shares: sides run in turn in processes of their own, medians, peak memory, one result file.

Standard library only: workers import it from environments without the zoo.
"""

import datetime
import json
import pathlib
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def alternate(commands: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs every side once a round, the order reversed from round to round, so that drift meets all alike.

    Args:
        commands: side -> command line; it prints a JSON object as its last line.
        rounds: how often each side runs.

    Returns:
        Side -> what it printed, one dict a round; empty for a side that fails, and its error goes to stderr.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
    for number in range(rounds):
        for side in list(commands)[:: -1 if number % 2 else 1]:
            ran = subprocess.run(commands[side], capture_output=True, text=True)
            lines = ran.stdout.strip().splitlines()
            if ran.returncode or not lines:
                print(f"{side} failed: {ran.stderr[-2000:]}", file=sys.stderr)
                continue
            runs[side].append(json.loads(lines[-1]))
            print(side, lines[-1], file=sys.stderr, flush=True)
    return runs


def median(values: Iterable[Any]) -> Any:
    """The median of numbers; of anything else the first."""
    listed = list(values)
    return statistics.median(listed) if isinstance(listed[0], int | float) else listed[0]


def resident_mib(reset: bool = False) -> float:
    """Memory of this process in MiB: what it holds now, from when on the peak is counted anew (`reset`)."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_mib() -> float:
    """Most memory that this process held, in MiB, since the start or the last `resident_mib(reset=True)`."""
    return _status("VmHWM")


def _status(field: str) -> float:
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) / 1024


def write(
    name: str,
    *,
    predicted: Mapping[str, Any],
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    headline: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Writes `results/<name>_<date>_<processor>_<versions>.json`.

    Args:
        name: of the benchmark.
        predicted: what was expected before the first run.
        settings: what was run.
        rows: medians, one dict a side, with "version".
        headline: what the README's table shows: what, zoo, peer, ratio, goal.

    Returns:
        The file; an older one of the same benchmark, processor and versions is replaced.
    """
    from zoo.devices import processor  # the workers, who do not write, run without the zoo

    date = datetime.date.today().isoformat()
    versions = sorted({str(row["version"]) for row in rows if "version" in row})
    words = [name, date, processor(), *versions]
    path = RESULTS / ("_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-") for word in words) + ".json")
    device = {"processor": processor(), "system": platform.platform(), "python": platform.python_version()}
    content = {
        "what": name, "date": date, "device": device, "versions": versions, "settings": dict(settings),
        "predicted": dict(predicted), "rows": list(rows), "headline": list(headline),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.glob(f"{name}_*.json"):
        before = json.loads(old.read_text())
        if (before.get("device"), before.get("versions")) == (device, versions):
            old.unlink()
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
