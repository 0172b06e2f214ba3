"""Fetching against servers that work, break off, lie, refuse and hang: one clear error, nothing left behind."""

import dataclasses
import hashlib
import http.server
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types

import pytest
from support.cards import tiny_card

import zoo
from zoo.hub import card_file
from zoo.hub import download as fetching
from zoo.hub.card import Attached, Golden, Weights
from zoo.hub.json_records import to_plain

NAME = "tiny.test"
BODY = bytes(range(256)) * 800
SHORT = b"golden"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.fault` says what goes wrong."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        content = self.server.files.get(self.path)
        if content is None or self.server.fault == "404":
            self.send_error(404)
            return
        if self.server.fault == "hang":
            self.server.release.wait(20)
            return
        if self.server.fault == "dripping headers":
            self.drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
            return
        start = 0
        if (span := self.headers.get("Range")) and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        whole = self.path.endswith("card.json") or not self.server.fault
        stop = len(content) if whole else start + (len(content) - start) // 2
        self.wfile.write(content[start:stop])
        if self.server.fault == "stall" and not whole:
            self.wfile.flush()
            self.server.release.wait(20)
        if self.server.fault == "drip" and not whole:
            self.drip(content[stop:])

    def drip(self, content):
        """Sends a byte now and then, so that no wait for one is long."""
        for byte in content:
            if self.server.release.wait(0.05):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        pass  # clients that give up are part of the tests


@pytest.fixture
def serve():
    """Starts servers of one good trained model; each can be made to fail."""
    made = []

    def start(fault=None, *, ranges=True, files=None):
        server = Server(("127.0.0.1", 0), Handler)
        server.files = model_files() if files is None else files
        server.fault, server.ranges, server.asked, server.release = fault, ranges, [], threading.Event()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}/m"
        made.append(server)
        return server

    yield start
    for server in made:
        server.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(folder))
    monkeypatch.setenv("ZOO_TIMEOUT_S", "0.5")
    for name in ("ZOO_PATH", "ZOO_URL", "ZOO_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def whole_card(**changes):
    weights = Weights("weights.safetensors", len(BODY), hashlib.sha256(BODY).hexdigest(), "float32")
    golden = Golden("golden.npz", len(SHORT), hashlib.sha256(SHORT).hexdigest())
    return tiny_card(**{"parameters": 9, "weights": weights, "golden": golden, **changes})


def model_files(card=None, body=BODY):
    text = json.dumps(to_plain(card or whole_card())).encode()
    base = f"/m/{NAME}"
    return {f"{base}/card.json": text, f"{base}/weights.safetensors": body, f"{base}/golden.npz": SHORT}


def left_in(cache):
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def fetch_from(monkeypatch, *servers):
    monkeypatch.setenv("ZOO_URL", ",".join(getattr(server, "url", server) for server in servers))
    return fetching.find(NAME)


def test_a_whole_model_arrives(serve, cache, monkeypatch):
    folder = fetch_from(monkeypatch, serve())
    assert folder == cache / NAME
    assert (folder / "weights.safetensors").read_bytes() == BODY
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "card.json",
        "golden.npz",
        "weights.safetensors",
    ]
    assert left_in(cache) == [NAME]
    assert fetching.list_trained().count(NAME) == 1


def test_what_is_attached_arrives_and_is_checked(serve, cache, monkeypatch):
    attached = Attached("normative.npz", len(SHORT), hashlib.sha256(SHORT).hexdigest())
    files = model_files(whole_card(attached=(attached,))) | {f"/m/{NAME}/normative.npz": SHORT}
    assert (fetch_from(monkeypatch, serve(files=files)) / "normative.npz").read_bytes() == SHORT
    shutil.rmtree(cache)
    files[f"/m/{NAME}/normative.npz"] = SHORT[::-1]
    with pytest.raises(ConnectionError, match=r"normative\.npz has sha256"):
        fetch_from(monkeypatch, serve(files=files))


def test_the_second_time_nothing_is_asked(serve, monkeypatch):
    server = serve()
    fetch_from(monkeypatch, server)
    count = len(server.asked)
    fetch_from(monkeypatch, server)
    assert len(server.asked) == count == 3


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("404", "answered 404 Not Found for http://127.0.0.1"),
        ("cut", "weights.safetensors ended after"),
        ("hang", "sent nothing for 0.5 s (ZOO_TIMEOUT_S)"),
        ("stall", "sent nothing for 0.5 s (ZOO_TIMEOUT_S)"),
        ("drip", "s, fewer than 1024 a second"),
        ("dripping headers", "sent no whole answer in 1 s (ZOO_TIMEOUT_S)"),
    ],
)
def test_a_bad_server_ends_in_one_clear_error(fault, part, serve, cache, monkeypatch):
    with pytest.raises(ConnectionError, match=r"tiny\.test could not be fetched") as error:
        fetch_from(monkeypatch, serve(fault, ranges=fault != "cut"))
    assert part in str(error.value) and "ZOO_URL" in str(error.value)
    assert left_in(cache) == []


def test_a_wrong_hash_is_refused(serve, cache, monkeypatch):
    with pytest.raises(ConnectionError, match="weights.safetensors has sha256 .* its card says"):
        fetch_from(monkeypatch, serve(files=model_files(body=BODY[::-1])))
    assert left_in(cache) == []


def test_a_file_that_is_too_long_is_refused(serve, cache, monkeypatch):
    with pytest.raises(ConnectionError, match=f"weights.safetensors is longer than {len(BODY)} bytes"):
        fetch_from(monkeypatch, serve(files=model_files(body=BODY + b"x")))
    assert left_in(cache) == []


@pytest.mark.parametrize(
    ("content", "part"), [(b'{"name"', "is not JSON"), (b"<html>", "is not JSON"), (b"{}", "is missing")]
)
def test_a_bad_card_is_refused(content, part, serve, cache, monkeypatch):
    with pytest.raises(ConnectionError, match=part):
        fetch_from(monkeypatch, serve(files={f"/m/{NAME}/card.json": content}))
    assert left_in(cache) == []


def test_the_card_of_another_model_is_refused(serve, cache, monkeypatch):
    other = dataclasses.replace(whole_card(), name="tiny.other")
    with pytest.raises(ConnectionError, match=r"is the card of 'tiny\.other'"):
        fetch_from(monkeypatch, serve(files=model_files(other)))
    assert left_in(cache) == []


def test_nobody_listening_ends_in_one_clear_error(serve, cache, monkeypatch):
    gone = serve()
    gone.shutdown()
    gone.server_close()
    with pytest.raises(ConnectionError, match="refused"):
        fetch_from(monkeypatch, gone)
    assert left_in(cache) == []


def test_the_next_mirror_is_tried(serve, cache, monkeypatch):
    fetch_from(monkeypatch, serve("404"), serve("hang"), serve())
    assert left_in(cache) == [NAME]


def test_all_mirrors_that_failed_are_named(serve, monkeypatch):
    first, second = serve("404"), serve("hang")
    with pytest.raises(ConnectionError) as error:
        fetch_from(monkeypatch, first, second, "ftp://example.org")
    assert f"{first.url}: answered 404" in str(error.value)
    assert f"{second.url}: sent nothing" in str(error.value)
    assert "ftp://example.org: an address must begin with https://" in str(error.value)


def test_what_a_killed_process_left_is_taken_up(serve, cache, monkeypatch):
    part = cache / f".{NAME}.part"
    part.mkdir(parents=True)
    (part / "weights.safetensors").write_bytes(BODY[:1000])
    server = serve()
    folder = fetch_from(monkeypatch, server)
    assert (f"/m/{NAME}/weights.safetensors", "bytes=1000-") in server.asked
    assert (folder / "weights.safetensors").read_bytes() == BODY
    assert left_in(cache) == [NAME]


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_another_mirror_finishes_what_one_began(fault, serve, monkeypatch):
    first, second = serve(fault, ranges=False), serve()
    folder = fetch_from(monkeypatch, first, second)
    assert (f"/m/{NAME}/weights.safetensors", f"bytes={len(BODY) // 2}-") in second.asked
    assert (folder / "weights.safetensors").read_bytes() == BODY


def test_the_rest_is_asked_for_after_a_break(serve, monkeypatch):
    server = serve("cut")  # half of what is left, each time
    server.files = model_files()
    with pytest.raises(ConnectionError, match="ended after"):
        fetch_from(monkeypatch, server)
    spans = [span for path, span in server.asked if path.endswith("weights.safetensors")]
    assert spans == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]


def test_a_server_without_ranges_starts_anew(serve, cache, monkeypatch):
    part = cache / f".{NAME}.part"
    part.mkdir(parents=True)
    (part / "weights.safetensors").write_bytes(b"rubbish")
    folder = fetch_from(monkeypatch, serve(ranges=False))
    assert (folder / "weights.safetensors").read_bytes() == BODY


@pytest.mark.parametrize("rubbish", [b"\1" * 1000, b"\1" * (len(BODY) + 9), b"\1" * len(BODY)])
def test_a_wrong_beginning_is_thrown_away(rubbish, serve, cache, monkeypatch):
    part = cache / f".{NAME}.part"
    part.mkdir(parents=True)
    (part / "weights.safetensors").write_bytes(rubbish)
    folder = fetch_from(monkeypatch, serve())
    assert (folder / "weights.safetensors").read_bytes() == BODY


def test_two_processes_fetch_once(serve, cache):
    server = serve()
    code = f"from zoo.hub import download; print(download.find({NAME!r}))"
    run = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = {**os.environ, "ZOO_URL": server.url, "ZOO_TIMEOUT_S": "20"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=settings, **run) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(cache / NAME)}
    assert len(server.asked) == 3
    assert left_in(cache) == [NAME]


def test_offline_forbids_a_download(serve, cache, monkeypatch):
    server = serve()
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no trained model 'tiny\.test'.*ZOO_OFFLINE forbids"):
        fetch_from(monkeypatch, server)
    with pytest.raises(ValueError, match="ZOO_OFFLINE forbids"):
        fetching.download(NAME)
    assert server.asked == [] and not cache.exists()


def test_no_address_says_so():
    with pytest.raises(ValueError, match="ZOO_URL names no address"):
        fetching.find(NAME)


def put(folder, name=NAME):
    (folder / name).mkdir(parents=True)
    card_file.write(whole_card(name=name), folder / name)
    return folder / name


def test_folders_are_searched_in_order(tmp_path, cache, monkeypatch):
    in_cache = put(cache)
    assert fetching.find(NAME) == in_cache
    first, second = put(tmp_path / "a"), put(tmp_path / "b")
    monkeypatch.setenv("ZOO_PATH", os.pathsep.join([str(tmp_path / "none"), str(tmp_path / "a"), str(tmp_path / "b")]))
    assert fetching.find(NAME) == first != second
    assert fetching.find(second) == fetching.find(str(second)) == second


def test_a_read_only_folder_is_enough(tmp_path, cache, monkeypatch):
    folder = put(tmp_path / "shared")
    monkeypatch.setenv("ZOO_PATH", str(tmp_path / "shared"))
    for path in (folder / "card.json", folder, tmp_path / "shared"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "shared").rglob("*"))]
        assert fetching.find(NAME) == folder
        assert NAME in fetching.list_trained()
        assert before == [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "shared").rglob("*"))]
    finally:
        folder.chmod(0o755)
        (tmp_path / "shared").chmod(0o755)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_says_so(serve, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(PermissionError, match="cannot be written .* Set ZOO_CACHE"):
        fetch_from(monkeypatch, serve())


@pytest.mark.parametrize("name", [None, 3, b"tiny.test", io.StringIO("tiny.test")])
def test_what_is_no_name_says_what_to_pass(name):
    kind = type(name).__name__
    for function in (fetching.find, zoo.load, zoo.card):
        with pytest.raises(
            TypeError, match=rf"by its name or the path of its folder, got {kind}\. See zoo\.list_models"
        ):
            function(name)


def test_a_near_name_is_named(cache):
    put(cache)
    with pytest.raises(ValueError, match=r"no trained model 'tiny\.tets'. Did you mean 'tiny\.test'\?"):
        fetching.find("tiny.tets")


@pytest.mark.parametrize("name", ["../x", "/no/where", "./tiny.test"])
def test_a_path_without_a_card_says_so(name):
    with pytest.raises(FileNotFoundError, match=r"There is no card\.json in"):
        fetching.find(name)


@pytest.mark.parametrize("name", ["..", "tiny", "Tiny.Test", "tiny.te st", ""])
def test_no_other_name_is_ever_fetched(name, serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("ZOO_URL", server.url)
    for function in (fetching.find, fetching.download):
        with pytest.raises(ValueError, match="no trained model"):
            function(name)
    assert server.asked == []


def test_a_bad_timeout_says_so(serve, monkeypatch):
    monkeypatch.setenv("ZOO_TIMEOUT_S", "soon")
    with pytest.raises(ValueError, match="ZOO_TIMEOUT_S must be a positive number of seconds, got 'soon'"):
        fetch_from(monkeypatch, serve())


def test_the_cache_has_a_place_without_the_setting(monkeypatch):
    monkeypatch.delenv("ZOO_CACHE")
    assert fetching.cache_folder().parts[-2:] == ("zoo3d", "models")


def hub(monkeypatch, download, size=1000):
    functions = {
        "hf_hub_download": download,
        "hf_hub_url": lambda repository, file, *, revision: f"{repository}@{revision}/{file}",
        "get_hf_file_metadata": lambda url, *, timeout: types.SimpleNamespace(size=size),
    }
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(**functions))


def test_a_hub_repository_is_asked_file_by_file(cache, monkeypatch):
    requests = []

    def download(repository, file, *, revision, local_dir):
        requests.append((repository, file, revision))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "got").write_bytes(model_files()[f"/m/{file}"])
        return str(local_dir / "got")

    hub(monkeypatch, download, size=len(SHORT))
    folder = fetch_from(monkeypatch, "hf://org/models@v1")
    assert [file for _, file, _ in requests] == [
        f"{NAME}/{f}" for f in ("card.json", "weights.safetensors", "golden.npz")
    ]
    assert {(name, two) for name, _, two in requests} == {("org/models", "v1")}
    assert (folder / "weights.safetensors").read_bytes() == BODY
    assert left_in(cache) == [NAME] and not (folder / ".hub").exists()


@pytest.mark.parametrize("size", [1 << 40, None])
def test_a_hub_is_asked_for_the_size_before_a_file_is_downloaded(size, cache, monkeypatch):
    hub(monkeypatch, lambda *args, **named: pytest.fail("it was downloaded"), size)
    with pytest.raises(ConnectionError, match=rf"card\.json has {size} bytes on the hub, and at most 1048576 are"):
        fetch_from(monkeypatch, "hf://org/models")
    assert left_in(cache) == []


def test_the_hub_has_the_functions_that_are_called():
    hub = pytest.importorskip("huggingface_hub")
    assert hub.hf_hub_url("org/models", "a/b.json", revision="v1").endswith("/org/models/resolve/v1/a/b.json")
    assert {"url", "timeout"} <= set(inspect.signature(hub.get_hf_file_metadata).parameters)


def test_a_failing_hub_is_one_clear_error(cache, monkeypatch):
    def download(*args, **named):
        raise RuntimeError("gated")

    hub(monkeypatch, download)
    with pytest.raises(ConnectionError, match="hf://org/models: RuntimeError: gated"):
        fetch_from(monkeypatch, "hf://org/models")
    assert left_in(cache) == []


def test_a_missing_hub_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConnectionError, match=r"pip install 'zoo3d\[hub\]'"):
        fetch_from(monkeypatch, "hf://org/models")
