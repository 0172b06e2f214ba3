"""Finds trained models in folders, or downloads them into the cache and checks them.

Settings, all environment variables:
    ZOO_PATH: folders searched first, separated as in PATH; they may be read-only.
    ZOO_CACHE: the user cache; the system's own place without it.
    ZOO_URL: addresses tried in order, separated by commas: `https://host/folder`, `http://...` or
        `hf://organisation/repository[@revision]`. A model lies under `<address>/<name>/`.
    ZOO_OFFLINE: 1 forbids any download.
    ZOO_TIMEOUT_S: seconds without a byte, or with fewer than 1024 a second, after which an address is given up (30).
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from zoo import files
from zoo.errors import unknown_choice
from zoo.hub import card as cards
from zoo.hub import card_file
from zoo.hub.model_readme import readme
from zoo.hub.transfer import FAILURES, IncompleteError, describe_failure, fetch_file

_TRIES = 3


def cache_folder() -> Path:
    """Returns the user cache for trained models: `ZOO_CACHE`, or the system's folder for caches; it may not exist."""
    if folder := os.environ.get("ZOO_CACHE"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo3d")) / "models"


def search_folders() -> list[Path]:
    """Returns the folders that exist and may hold trained models, in the order of the search."""
    package = Path(__file__).resolve().parents[1]
    own = [Path(name).expanduser() for name in os.environ.get("ZOO_PATH", "").split(os.pathsep) if name]
    candidates = [*own, package.parent / "pretrained", package / "pretrained", cache_folder()]
    return [folder for folder in candidates if os.path.isdir(folder)]


def list_trained() -> list[str]:
    """Lists the names of all trained models on this machine, sorted; a folder counts when it holds a card."""
    folders = (folder for parent in search_folders() for folder in _model_folders(parent))
    names = {folder.name for folder in folders if cards.NAME.fullmatch(folder.name)}
    return sorted(names)


def _model_folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [folder for folder in parent.iterdir() if os.path.isfile(folder / card_file.FILE)]
    return []


def find(name: str | os.PathLike) -> Path:
    """Returns the folder of a trained model; downloads it where no folder here has it and an address is set.

    Args:
        name: `builder.tag`, or the path of such a folder (a `Path`, or text with a slash).

    Returns:
        The folder; it holds a card, not yet checked.

    Raises:
        FileNotFoundError: a path was given and no trained model is there.
        TypeError: neither a name nor a path.
        ValueError: there is no such trained model here, and a download is forbidden or has no address.
        ConnectionError: no address gave a whole and right copy; each is named with its reason.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            f"A model is given by its name or the path of its folder, got {type(name).__name__}. See zoo.list_models()."
        )
    if isinstance(name, os.PathLike) or "/" in name or os.sep in name:
        if (Path(name) / card_file.FILE).is_file():
            return Path(name)
        raise FileNotFoundError(f"There is no {card_file.FILE} in {os.fspath(name)!r}. Give a trained model's folder.")
    if cards.NAME.fullmatch(name):
        for place in search_folders():
            if os.path.isfile(place / name / card_file.FILE):  # False, not an error, where a folder cannot be read
                return place / name
        if _list_addresses() and not _is_offline():
            return download(name)
    raise _not_found(name)


def _is_offline() -> bool:
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _list_addresses() -> list[str]:
    return [address.strip().rstrip("/") for address in os.environ.get("ZOO_URL", "").split(",") if address.strip()]


def _timeout_s() -> float:
    text = os.environ.get("ZOO_TIMEOUT_S", "30")
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise ValueError(f"ZOO_TIMEOUT_S must be a positive number of seconds, got {text!r}. Set it to 30, say.")


def _not_found(name: str) -> ValueError:
    why = "ZOO_OFFLINE forbids a download" if _is_offline() else "ZOO_URL names no address to fetch from"
    looked = ", ".join(str(place) for place in search_folders()) or "no folder"
    known = list_trained()
    fault = unknown_choice("trained model", name, known) if known else f"There is no trained model {name!r}."
    return ValueError(f"{fault} Looked in {looked}; {why}. Add a folder to ZOO_PATH, or set ZOO_URL.")


def download(name: str) -> Path:
    """Downloads a trained model into the cache: under a lock, into a temporary folder, checked, then renamed.

    The addresses of `ZOO_URL` are tried in order; one may finish a file that another began, since its sha256 is
    checked. What a killed process has downloaded is used by the next one; a failure leaves only an empty lock file.

    Args:
        name: `builder.tag`.

    Returns:
        The folder in the cache.

    Raises:
        ConnectionError: no address gave a whole and right copy; each is named with its reason.
        ValueError: `name` cannot be a trained model's, or ZOO_OFFLINE is set.
        PermissionError: the cache cannot be written.
    """
    if _is_offline() or not _list_addresses() or not cards.NAME.fullmatch(name):
        raise _not_found(name)
    timeout_s = _timeout_s()
    target = cache_folder() / name
    with _locked(target):
        if not (target / card_file.FILE).is_file():
            part = target.with_name(f".{name}.part")
            try:
                _fetch_from_any(name, part, timeout_s)
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


def _fetch_from_any(name: str, part: Path, timeout_s: float) -> None:
    reasons = []
    part.mkdir(exist_ok=True)
    for address in _list_addresses():
        try:
            _fetch_from(f"{address}/{name}", part, timeout_s)
            return
        except FAILURES as error:
            reasons.append(f"{address}: {describe_failure(error, timeout_s)}")
    raise ConnectionError(
        f"{name} could not be fetched. {'; '.join(reasons)}. Check the name and the network, name another address "
        "in ZOO_URL, or put the model in a folder of ZOO_PATH."
    )


def _fetch_from(source: str, part: Path, timeout_s: float) -> None:
    """Downloads the card, then each file that it names; writes the README from the card."""
    new = part / f"{card_file.FILE}.new"
    new.unlink(missing_ok=True)
    fetch_file(source, card_file.FILE, new, timeout_s, limit=card_file.MOST_BYTES)
    card = card_file.parse(new.read_bytes(), f"{source}/{card_file.FILE}")
    if card.name != source.rsplit("/", 1)[1]:
        raise ValueError(f"{source}/{card_file.FILE} is the card of {card.name!r}")
    for stored in (card.weights, card.golden, *card.attached):
        if stored is not None:
            _download_checked(source, stored, part / stored.file, timeout_s)
    (part / "README.md").write_text(readme(card), encoding="utf-8")
    files.write_whole(part / card_file.FILE, new.read_bytes())
    new.unlink()


def _download_checked(source: str, stored: cards.Stored, path: Path, timeout_s: float) -> None:
    begun = path.exists()
    _download_whole(source, stored, path, timeout_s)
    if begun and sha256(path) != stored.sha256:  # what was there before may be the wrong part: all of it anew
        path.unlink()
        _download_whole(source, stored, path, timeout_s)
    digest = sha256(path)
    if digest != stored.sha256:
        path.unlink()
        raise ValueError(f"{stored.file} has sha256 {digest}, its card says {stored.sha256}")


def _download_whole(source: str, stored: cards.Stored, path: Path, timeout_s: float) -> None:
    for attempt in range(_TRIES):
        try:
            fetch_file(source, stored.file, path, timeout_s, limit=stored.bytes)
            have = path.stat().st_size
            if have < stored.bytes:
                raise IncompleteError(f"{stored.file} ended after {have} of {stored.bytes} bytes")
            return
        except IncompleteError:
            if attempt + 1 == _TRIES:
                raise


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
