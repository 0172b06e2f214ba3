"""Where trained models lie and how one is fetched: folders first, then a checked download into the cache.

Settings, all environment variables:
    ZOO_PATH: folders searched first, separated as in PATH; they may be read-only.
    ZOO_CACHE: the user cache; the system's own place without it.
    ZOO_URL: addresses tried in order, separated by commas: `https://host/folder`, `http://...` or
        `hf://organisation/repository[@revision]`. A model lies under `<address>/<name>/`.
    ZOO_OFFLINE: 1 forbids any download.
    ZOO_TIMEOUT_S: seconds without a byte after which an address is given up (30).
"""

import contextlib
import hashlib
import http.client
import importlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub import card as cards
from zoo.hub import card_file
from zoo.hub.model_readme import readme

_CHUNK = 1 << 18
_CARD_LIMIT = 1 << 20
_TRIES = 3
_FAILURES = (OSError, ValueError, http.client.HTTPException)


class IncompleteError(OSError):
    """The connection ended early; what came is kept, and asking for the rest is worthwhile."""


def cache_folder() -> Path:
    """The user cache for trained models: `ZOO_CACHE`, or the system's own place for caches. May not exist."""
    if given := os.environ.get("ZOO_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo3d")) / "models"


def places() -> list[Path]:
    """The folders that exist and may hold trained models, in the order of the search."""
    package = Path(__file__).resolve().parents[1]
    given = [Path(one).expanduser() for one in os.environ.get("ZOO_PATH", "").split(os.pathsep) if one]
    candidates = [*given, package.parent / "pretrained", package / "pretrained", cache_folder()]
    return [folder for folder in candidates if os.path.isdir(folder)]


def list_trained() -> list[str]:
    """Sorted names of all trained models on this machine; a folder counts when it holds a card."""
    folders = (folder for place in places() for folder in _entries(place))
    found = {folder.name for folder in folders if cards.NAME.fullmatch(folder.name)}
    return sorted(found)


def _entries(place: Path) -> list[Path]:
    with contextlib.suppress(PermissionError):
        return [folder for folder in place.iterdir() if os.path.isfile(folder / card_file.FILE)]
    return []


def find(name: str | os.PathLike) -> Path:
    """The folder of a trained model, fetched when it is on no folder here and addresses are known.

    Args:
        name: `builder.tag`, or the path of such a folder (a `Path`, or text with a slash).

    Returns:
        The folder; it holds a card, not yet checked.

    Raises:
        FileNotFoundError: a path was given and no trained model is there.
        ValueError: there is no such trained model here, and a download is forbidden or has no address.
        ConnectionError: no address gave a whole and right copy; each is named with its reason.
    """
    if isinstance(name, os.PathLike) or "/" in name or os.sep in name:
        if (Path(name) / card_file.FILE).is_file():
            return Path(name)
        raise FileNotFoundError(f"There is no {card_file.FILE} in {os.fspath(name)!r}. Give a trained model's folder.")
    if cards.NAME.fullmatch(name):
        for place in places():
            if os.path.isfile(place / name / card_file.FILE):  # False, not an error, where a folder cannot be read
                return place / name
        if _addresses() and not _offline():
            return download(name)
    raise _nowhere(name)


def _offline() -> bool:
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _addresses() -> list[str]:
    return [one.strip().rstrip("/") for one in os.environ.get("ZOO_URL", "").split(",") if one.strip()]


def _timeout_s() -> float:
    text = os.environ.get("ZOO_TIMEOUT_S", "30")
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise ValueError(f"ZOO_TIMEOUT_S must be a positive number of seconds, got {text!r}. Set it to 30, say.")


def _nowhere(name: str) -> ValueError:
    why = "ZOO_OFFLINE forbids a download" if _offline() else "ZOO_URL names no address to fetch from"
    looked = ", ".join(str(place) for place in places()) or "no folder"
    known = list_trained()
    fault = unknown_choice("trained model", name, known) if known else f"There is no trained model {name!r}."
    return ValueError(f"{fault} Looked in {looked}; {why}. Add a folder to ZOO_PATH, or set ZOO_URL.")


def download(name: str) -> Path:
    """Fetches a trained model into the cache: under a lock, into a temporary name, checked, then renamed.

    The addresses of `ZOO_URL` are tried in order; a file that one began another may finish, for its sha256
    decides. A process that was killed leaves its part for the next one to go on from; a failure leaves nothing
    but an empty lock file.

    Args:
        name: `builder.tag`.

    Returns:
        The folder in the cache.

    Raises:
        ConnectionError: no address gave a whole and right copy; each is named with its reason.
        ValueError: `name` cannot be a trained model's, or ZOO_OFFLINE is set.
        PermissionError: the cache cannot be written.
    """
    if _offline() or not _addresses() or not cards.NAME.fullmatch(name):
        raise _nowhere(name)
    timeout_s = _timeout_s()
    target = cache_folder() / name
    with _locked(target):
        if not (target / card_file.FILE).is_file():
            part = target.with_name(f".{name}.part")
            try:
                _fetch(name, part, timeout_s)
                files.swap_folder(part, target)  # a target without a card was nobody's model
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise PermissionError(
            f"The cache {target.parent} cannot be written ({error}). Set ZOO_CACHE to a folder that can, "
            "or put the model in a folder of ZOO_PATH."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(name: str, part: Path, timeout_s: float) -> None:
    reasons = []
    part.mkdir(exist_ok=True)
    for address in _addresses():
        try:
            _fetch_from(f"{address}/{name}", part, timeout_s)
            return
        except _FAILURES as error:
            reasons.append(f"{address}: {_reason(error, timeout_s)}")
    raise ConnectionError(
        f"{name} could not be fetched. {'; '.join(reasons)}. Check the name and the network, name another address "
        "in ZOO_URL, or put the model in a folder of ZOO_PATH."
    )


def _reason(error: Exception, timeout_s: float) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        return f"answered {error.code} {error.reason} for {error.url}"
    if isinstance(error, TimeoutError) or isinstance(inner, TimeoutError):
        return f"sent nothing for {timeout_s:g} s (ZOO_TIMEOUT_S)"
    return str(inner).rstrip(".") or type(error).__name__


def _fetch_from(source: str, part: Path, timeout_s: float) -> None:
    """The card first, then each file that it names; the README is written from the card."""
    new = part / f"{card_file.FILE}.new"
    new.unlink(missing_ok=True)
    _get(source, card_file.FILE, new, timeout_s, limit=_CARD_LIMIT)
    card = card_file.parse(new.read_bytes(), f"{source}/{card_file.FILE}")
    if card.name != source.rsplit("/", 1)[1]:
        raise ValueError(f"{source}/{card_file.FILE} is the card of {card.name!r}")
    for wanted in (card.weights, card.golden, *card.attached):
        if wanted is not None:
            _get_checked(source, wanted, part / wanted.file, timeout_s)
    (part / "README.md").write_text(readme(card), encoding="utf-8")
    files.write_whole(part / card_file.FILE, new.read_bytes())
    new.unlink()


def _get_checked(source: str, wanted: cards.Stored, path: Path, timeout_s: float) -> None:
    begun = path.exists()
    _get_whole(source, wanted, path, timeout_s)
    if begun and sha256(path) != wanted.sha256:  # what was there before may be the wrong part: all of it anew
        path.unlink()
        _get_whole(source, wanted, path, timeout_s)
    found = sha256(path)
    if found != wanted.sha256:
        path.unlink()
        raise ValueError(f"{wanted.file} has sha256 {found}, its card says {wanted.sha256}")


def _get_whole(source: str, wanted: cards.Stored, path: Path, timeout_s: float) -> None:
    for attempt in range(_TRIES):
        try:
            _get(source, wanted.file, path, timeout_s, limit=wanted.bytes)
            have = path.stat().st_size
            if have < wanted.bytes:
                raise IncompleteError(f"{wanted.file} ended after {have} of {wanted.bytes} bytes")
            return
        except IncompleteError:
            if attempt + 1 == _TRIES:
                raise


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _get(source: str, file: str, path: Path, timeout_s: float, *, limit: int) -> None:
    """Brings one file to `path`, going on from what is there; `limit` bytes at most."""
    if source.startswith("hf://"):
        _get_from_hub(source.removeprefix("hf://"), file, path)
    elif source.startswith(("https://", "http://")):
        _get_from_web(f"{source}/{file}", path, timeout_s, limit)
    else:
        raise ValueError("an address must begin with https://, http:// or hf://; for a folder use ZOO_PATH")
    if path.stat().st_size > limit:
        path.unlink()
        raise ValueError(f"{file} is longer than {limit} bytes")


def _get_from_web(address: str, path: Path, timeout_s: float, limit: int) -> None:
    have = path.stat().st_size if path.exists() else 0
    if have == limit:
        return
    have = have if have < limit else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(address, headers={"User-Agent": "zoo3d", **headers})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        goes_on = answer.status == 206 and re.match(rf"bytes {have}-", answer.headers.get("Content-Range", ""))
        with open(path, "ab" if have and goes_on else "wb") as out:
            try:
                while out.tell() <= limit and (chunk := answer.read1(_CHUNK)):
                    out.write(chunk)
            except (http.client.IncompleteRead, ConnectionResetError) as error:
                out.write(getattr(error, "partial", b""))
                raise IncompleteError(f"broke off after {out.tell()} bytes of {address}") from error


def _get_from_hub(place: str, file: str, path: Path) -> None:
    """`place` is `organisation/repository[@revision]/<name>`."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ValueError("hf:// needs huggingface_hub: pip install 'zoo3d[hub]'") from error
    repository, folder = place.rsplit("/", 1)
    repository, _, revision = repository.partition("@")
    store = path.parent / ".hub"
    try:
        got = hub.hf_hub_download(repository, f"{folder}/{file}", revision=revision or None, local_dir=store)
        path.unlink(missing_ok=True)
        shutil.move(got, path)
    except _FAILURES:
        raise
    except Exception as error:  # the hub's own errors share no base class across its versions
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(store, ignore_errors=True)
