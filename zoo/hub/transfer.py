"""Transfers one file of a trained model from a web server or the Hugging Face hub, within limits of size and time."""

import contextlib
import http.client
import importlib
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FAILURES = (OSError, ValueError, http.client.HTTPException)
LEAST_SPEED = 1024  # bytes a second; a server that sends fewer would keep the lock of the cache for days
_CHUNK = 1 << 18


class IncompleteError(OSError):
    """Raised when a connection ends early; what came is kept, and the rest can be requested."""


class SlowError(OSError):
    """Raised when a server sends, and so little that it would never end."""


def fetch_file(source: str, file: str, path: Path, timeout_s: float, *, limit: int) -> None:
    """Downloads one file to `path`, from where an earlier download ended.

    Args:
        source: `https://host/folder`, `http://...` or `hf://organisation/repository[@revision]/folder`.
        file: its name in that folder.
        path: where it goes; what is there is continued.
        timeout_s: seconds without a byte, or with fewer than `LEAST_SPEED` a second, after which it is given up.
        limit: bytes that it may have.

    Raises:
        IncompleteError: the connection ended early; what came is kept.
        SlowError: the server sends too little.
        OSError: the server or the hub refused, or sent nothing in time.
        ValueError: another kind of address, or more bytes than the limit.
    """
    if source.startswith("hf://"):
        _fetch_from_hub(source.removeprefix("hf://"), file, path, timeout_s, limit)
    elif source.startswith(("https://", "http://")):
        _fetch_from_web(f"{source}/{file}", path, timeout_s, limit)
    else:
        raise ValueError("an address must begin with https://, http:// or hf://; for a folder use ZOO_PATH")
    if path.stat().st_size > limit:
        path.unlink()
        raise ValueError(f"{file} is longer than {limit} bytes")


def describe_failure(error: Exception, timeout_s: float) -> str:
    """Words what went wrong with an address."""
    inner = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        return f"answered {error.code} {error.reason} for {error.url}"
    if isinstance(error, TimeoutError) or isinstance(inner, TimeoutError):
        return f"sent nothing for {timeout_s:g} s (ZOO_TIMEOUT_S)"
    return str(inner).rstrip(".") or type(error).__name__


def _fetch_from_web(address: str, path: Path, timeout_s: float, limit: int) -> None:
    size = path.stat().st_size if path.exists() else 0
    if size == limit:
        return
    size = size if size < limit else 0
    headers = {"Range": f"bytes={size}-"} if size else {}
    request = urllib.request.Request(address, headers={"User-Agent": "zoo3d", **headers})
    with _open_within(request, timeout_s) as response:
        continues = response.status == 206 and re.match(rf"bytes {size}-", response.headers.get("Content-Range", ""))
        with open(path, "ab" if size and continues else "wb") as out:
            try:
                _copy(response, out, timeout_s, limit)
            except (http.client.IncompleteRead, ConnectionResetError) as error:
                out.write(getattr(error, "partial", b""))
                raise IncompleteError(f"broke off after {out.tell()} bytes of {address}") from error


def _open_within(request: urllib.request.Request, timeout_s: float) -> Any:
    """Opens an address within twice the time: the timeout of a socket begins anew with every byte of the headers."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(urllib.request.urlopen(request, timeout=timeout_s))
        except Exception as error:  # raised below, in the thread of the caller
            answers.append(error.with_traceback(None))  # whose frames would hold the socket

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * timeout_s)
    if not answers:
        raise SlowError(f"sent no whole answer in {2 * timeout_s:g} s (ZOO_TIMEOUT_S)")
    answer = answers.pop()
    if not isinstance(answer, Exception):
        return answer
    try:
        raise answer
    finally:
        del answer  # an error that its own frame holds is not freed with its connection


def _copy(response: Any, out: Any, timeout_s: float, limit: int) -> None:
    """Copies a body to a file until its end or the limit, as long as enough of it comes."""
    begun, before = time.monotonic(), out.tell()
    while out.tell() <= limit and (chunk := response.read1(_CHUNK)):
        out.write(chunk)
        seconds, came = time.monotonic() - begun, out.tell() - before
        if seconds >= timeout_s:
            if came < LEAST_SPEED * seconds:
                raise SlowError(f"sent {came} bytes in {seconds:.0f} s, fewer than {LEAST_SPEED} a second")
            begun, before = time.monotonic(), out.tell()


def _fetch_from_hub(source: str, file: str, path: Path, timeout_s: float, limit: int) -> None:
    """Downloads a file from `organisation/repository[@revision]/<name>`, once the hub says that it is small enough."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ValueError("hf:// needs huggingface_hub: pip install 'zoo3d[hub]'") from error
    repository, folder = source.rsplit("/", 1)
    repository, _, revision = repository.partition("@")
    store, name = path.parent / ".hub", f"{folder}/{file}"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, store, ignore_errors=True)
        try:
            url = hub.hf_hub_url(repository, name, revision=revision or None)
            size = hub.get_hf_file_metadata(url, timeout=timeout_s).size
            if size is None or size > limit:
                raise ValueError(f"{file} has {size} bytes on the hub, and at most {limit} are expected")
            stored = hub.hf_hub_download(repository, name, revision=revision or None, local_dir=store)
        except FAILURES:
            raise
        except Exception as error:  # the hub's own errors share no base class across its versions
            raise OSError(f"{type(error).__name__}: {error}") from error
        path.unlink(missing_ok=True)
        shutil.move(stored, path)
