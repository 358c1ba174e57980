"""A name always means a whole file."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from posebook.files import whole_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    with whole_file(tmp_path / "new" / "a.txt") as part:
        part.write_text("one")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "one" and len(list((tmp_path / "new").iterdir())) == 1


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, signal, sys
from posebook.files import whole_file
with whole_file(sys.argv[1]) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_to_write_there(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], env=environment, check=False)
    assert killed.returncode == -9
    left, = tmp_path.iterdir()
    assert left.suffix == ".part"
    kept = {f"a.{platform.node()}.{os.getppid()}.part", f"a.elsewhere.{os.getpid()}.part", "download.zip.part"}
    for name in kept:                                   # of a living process, of another machine, of another kind
        (tmp_path / name).touch()
    with whole_file(tmp_path / "b") as part:
        part.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"b"} | kept
