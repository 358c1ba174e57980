"""The tool that gets the page's files: verified, from the cache where it can, and one sentence where it cannot."""

import gzip
import hashlib
import io
import tarfile
import threading

import build_live
import pytest
from test_download import Server

FILES = {build_live.SCRIPT: b"export {};\n" * 50, build_live.BINARY: b"\0asm" + bytes(5000), "other.js": b"no"}


def packed(files=FILES, kind=tarfile.REGTYPE):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size, entry.type = len(content), kind
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def registry(monkeypatch):
    """A registry that has the package, as npm's settings name it; set `package` to serve another one."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(content, digest=None):
        server.files = {f"/onnxruntime-web/-/{build_live.PACKAGE}": content}
        monkeypatch.setattr(build_live, "DIGEST", digest or hashlib.sha256(content).hexdigest())

    server.serve = serve
    serve(packed())
    monkeypatch.setenv("npm_config_registry", server.url)
    yield server
    server.shutdown()
    server.server_close()


def test_only_the_two_files_are_taken_and_the_second_time_nothing_is_asked(registry, tmp_path):
    for out in (tmp_path / "a", tmp_path / "b"):
        build_live.runtime(out, tmp_path / "cache")
        assert sorted(path.name for path in out.iterdir()) == sorted([build_live.SCRIPT, f"{build_live.BINARY}.gz"])
        assert (out / build_live.SCRIPT).read_bytes() == FILES[build_live.SCRIPT]
        assert gzip.decompress((out / f"{build_live.BINARY}.gz").read_bytes()) == FILES[build_live.BINARY]
    assert len(registry.log) == 1


def test_another_package_under_the_same_name_is_refused(registry, tmp_path):
    registry.serve(packed({**FILES, build_live.SCRIPT: b"something else"}), digest="0" * 64)
    with pytest.raises(OSError, match="do not have the published SHA-256"):
        build_live.runtime(tmp_path / "a", tmp_path / "cache")
    assert not (tmp_path / "a").exists() and not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [packed({"other.js": b"no"}), packed(kind=tarfile.DIRTYPE), b"no archive"])
def test_a_package_without_the_files_gives_a_sentence(registry, tmp_path, content):
    registry.serve(content)
    with pytest.raises(OSError, match="is no package of onnxruntime-web"):
        build_live.runtime(tmp_path / "a", tmp_path / "cache")


def test_without_the_internet_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    assert build_live.main(["--out", str(tmp_path / "a"), "--cache", str(tmp_path / "cache")]) == 1
    said = capsys.readouterr().err
    assert "the page with the network cannot be built" in said and build_live.PACKAGE in said and "by hand" in said
    assert "Traceback" not in said and not (tmp_path / "a" / "live.json").exists()


def test_a_whole_folder_is_left_alone_and_a_changed_one_is_made_again(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(build_live, "_network", lambda name, out: (out / f"{name}.onnx").write_bytes(b"n") and {})
    out, cache = tmp_path / "a", tmp_path / "cache"
    assert build_live.build(out, cache)
    assert not build_live.build(out, cache)
    (out / "people.onnx").write_bytes(b"")
    assert build_live.build(out, cache) and (out / "people.onnx").read_bytes() == b"n"
    monkeypatch.setattr(build_live, "_key", lambda: "other")
    assert build_live.build(out, cache) and not build_live.build(out, cache)
