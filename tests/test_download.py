"""Downloads from a server in this process that can be told to misbehave."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from posebook.datasets import download, lspet
from posebook.datasets.download import fetch, fetch_all
from posebook.files import sha256

CONTENT = bytes(range(256)) * 2000                          # 512 kB: several blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; `plan` says how the coming requests are answered, the rest are answered well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file.bin": CONTENT}
        self.plan: list[str] = []
        self.log: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # the name that the base class asks for
        self.server.log.append((self.path, self.headers.get("Range")))
        how = self.server.plan.pop(0) if self.server.plan else "good"
        body = self.server.files.get(self.path)
        if body is None or how == "error":
            return self.send_error(404 if body is None else 503)
        start = 0
        if (asked := self.headers.get("Range")) and how != "ignore range":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body):
                return self.send_error(416)
        if how == "corrupt":
            body = body[:-1] + b"?"
        part = body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if how == "cut":
            self.wfile.write(part[:200_000])                # and the connection closes
        elif how == "trickle":
            for at in range(0, len(part), 40_000):
                self.wfile.write(part[at:at + 40_000])
                time.sleep(0.2)
        else:
            self.wfile.write(part)

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:                             # the client was killed on purpose
            pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_download_and_a_second_call_that_asks_for_nothing(server, tmp_path):
    path = tmp_path / "deep" / "file.bin"
    fetch(server.url + "file.bin", path, DIGEST)
    assert path.read_bytes() == CONTENT and names(path.parent) == ["file.bin"] and sha256(path) == DIGEST
    fetch(server.url + "file.bin", path, DIGEST)
    assert server.log == [("/file.bin", None)]


def test_a_connection_that_closes_early_is_continued_where_it_stopped(server, tmp_path):
    server.plan = ["cut"]
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert server.log == [("/file.bin", None), ("/file.bin", "bytes=200000-")]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and names(tmp_path) == ["file.bin"]


def test_what_an_earlier_call_left_is_continued(server, tmp_path):
    server.plan = ["cut", "error", "error"]
    with pytest.raises(OSError, match="could not be fetched.*503.*kept and continued"):
        fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert names(tmp_path) == ["file.bin.part"] and (tmp_path / "file.bin.part").read_bytes() == CONTENT[:200_000]
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert server.log[-1] == ("/file.bin", "bytes=200000-") and names(tmp_path) == ["file.bin"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"other bytes entirely" * 100)
    server.plan = ["ignore range"]
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and server.log == [("/file.bin", "bytes=2000-")]


def test_a_corrupted_part_is_thrown_away_and_fetched_again(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"?" + CONTENT[1:3000])
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert server.log == [("/file.bin", "bytes=3000-"), ("/file.bin", None)]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 10], ids=["whole", "too long"])
def test_a_part_with_nothing_left_to_fetch(server, tmp_path, size):
    (tmp_path / "file.bin.part").write_bytes((CONTENT + b"0" * 10)[:size])
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and names(tmp_path) == ["file.bin"]


def test_a_damaged_final_file_is_replaced(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_final_name(server, tmp_path):
    server.plan = ["corrupt"] * 3
    with pytest.raises(OSError, match="do not have the published SHA-256"):
        fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert names(tmp_path) == [] and len(server.log) == 3


def test_a_file_that_is_not_there(server, tmp_path):
    with pytest.raises(OSError, match=r"none.bin could not be fetched: .*404"):
        fetch(server.url + "none.bin", tmp_path / "none.bin", DIGEST)
    assert names(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="could not be fetched"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", DIGEST, tries=1)


def test_a_kill_in_the_middle_leaves_a_part_that_the_next_call_completes(server, tmp_path):
    server.plan = ["trickle"]
    code = ("from pathlib import Path; from posebook.datasets.download import fetch; "
            f"fetch({server.url + 'file.bin'!r}, Path({str(tmp_path / 'file.bin')!r}), {DIGEST!r})")
    root = str(Path(lspet.__file__).parents[2])
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    part, until = tmp_path / "file.bin.part", time.monotonic() + 120
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert names(tmp_path) == ["file.bin.part"]
    have = part.stat().st_size
    assert 0 < have < len(CONTENT)
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert server.log[-1] == ("/file.bin", f"bytes={have}-")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and names(tmp_path) == ["file.bin"]


def test_many_files_all_are_tried_and_failures_counted(server, tmp_path):
    files = {f"images/{n}.bin": bytes([n]) * 100 for n in range(5)}
    server.files = {f"/{name}": body for name, body in files.items() if name != "images/2.bin"}
    wanted = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    with pytest.raises(OSError, match=r"1 of 5 files are missing; run the same command again.*images/2.bin"):
        fetch_all(server.url, wanted, tmp_path, workers=2)
    assert names(tmp_path / "images") == ["0.bin", "1.bin", "3.bin", "4.bin"]
    server.files["/images/2.bin"] = files["images/2.bin"]
    server.log.clear()
    fetch_all(server.url, wanted, tmp_path, workers=2)
    assert server.log == [("/images/2.bin", None)]
    assert (tmp_path / "images/2.bin").read_bytes() == files["images/2.bin"]


def test_lspet_asks_for_the_labels_and_10000_photographs(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(lspet, "fetch_all", lambda url, files, folder, workers: asked.update(files))
    lspet.download_lspet(tmp_path)
    assert set(asked) == {"joints.mat", *(f"images/im{n:05d}.jpg" for n in range(1, 10_001))}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in asked.values())


@pytest.mark.skipif(not download.fcntl, reason="without flock nobody waits")
def test_what_another_process_removes_at_any_moment_is_begun_again(server, tmp_path, monkeypatch):
    """Between opening the part and locking it, and between locking it and looking whether it is still there."""
    part, flock, stat = tmp_path / "file.bin.part", download.fcntl.flock, Path.stat
    removed = []

    def removed_while_waiting(*arguments):
        if not removed:
            part.unlink()
            removed.append("while it waited")
        flock(*arguments)

    def removed_while_looking(path, **options):
        found = stat(path, **options)
        if path == part and len(removed) == 1:
            part.unlink()
            removed.append("while it looked")
        return found

    monkeypatch.setattr(download.fcntl, "flock", removed_while_waiting)
    monkeypatch.setattr(Path, "stat", removed_while_looking)
    fetch(server.url + "file.bin", tmp_path / "file.bin", DIGEST)
    assert len(removed) == 2 and sha256(tmp_path / "file.bin") == DIGEST and names(tmp_path) == ["file.bin"]
