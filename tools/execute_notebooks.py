"""Runs notebooks from top to bottom; a failure is reported with its cell, and the rest run. `tools/notebooks` calls it.

Every notebook runs in a kernel of its own, from an empty folder, so that none leans on what another left behind.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import PIL.Image
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LONGEST_S = 1200  # a cell; a busy machine is forgiven, a cell that hangs is not
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
LOGGED = re.compile(r"^(INFO|WARNING):tensorflow:.*\n+", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Runs what is asked for and returns the exit status: 1 where a notebook failed."""
    options = arguments()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "ZOO_QUICK": "1" if options.quick else ""}
    paths = options.notebooks or sorted(FOLDER.glob("*.ipynb"))
    with ThreadPoolExecutor(options.jobs) as pool:
        reasons = pool.map(partial(report, options), paths)
        failed = [path.name for path, reason in zip(paths, reasons, strict=True) if reason]
    print(f"Failed: {', '.join(failed)}" if failed else "All notebooks ran.")
    return bool(failed)


def report(options: argparse.Namespace, path: Path) -> str:
    """Runs one notebook and prints a line; returns why it failed."""
    begin = time.monotonic()
    reason = run(path, write=options.write)
    print(f"{path.name:40} {time.monotonic() - begin:6.0f} s  {reason or 'ok'}", flush=True)
    return reason


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="tools/notebooks", description="Runs the notebooks.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="files; all of notebooks/ when left out")
    parser.add_argument("--quick", action="store_true", help="fewer steps and smaller volumes (ZOO_QUICK=1)")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks side by side; each takes up to 3 GB")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("the outputs of a quick run are not for readers: leave --quick or --write out.")
    return options


def run(path: Path, *, write: bool = False) -> str:
    """Runs one notebook.

    Args:
        path: of the .ipynb.
        write: whether it keeps the outputs; one that failed is left as it was.

    Returns:
        Why it failed, in a line or a few; empty when it did not.
    """
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="zoo-notebook-") as folder:
        client = NotebookClient(
            book,
            kernel_name="python3",
            timeout=LONGEST_S,
            resources={"metadata": {"path": folder}},
            store_widget_state=False,  # NiiVue's is the whole of its JavaScript
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return "failed\n" + COLOUR.sub("", str(error)).strip()
    if write:
        nbformat.write(tidy(book), path)
    return ""


def tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run and tells a reader nothing: times, addresses, stderr."""
    for cell in book.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key != "execution"}
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = LOGGED.sub("", output.text)
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = ADDRESS.sub("", data["text/plain"])
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
        cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return book


def smaller(png: str) -> str:
    """A picture, in base64, in 256 colours of its own: less than half the bytes, and no difference to the eye."""
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    packed = io.BytesIO()
    picture.convert("RGB").quantize(256, PIL.Image.Quantize.MAXCOVERAGE).save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
