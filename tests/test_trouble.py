"""Two processes at once, a home that cannot be written to, a full disk, Ctrl-C: a result, or one clear sentence.

What is checked runs in processes of its own. All but the first test's are forked from one that has imported posebook,
as `tools/soak.py` does it, since importing PyTorch takes seconds.
"""

import hashlib
import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # (an optimizer imports it, for seconds: once here, not in every child)
from PIL import Image
from samples import painted, people_shard, pose
from test_download import CONTENT, DIGEST, server  # noqa: F401  (a fixture)

from posebook import __main__ as command
from posebook import networks, results
from posebook.datasets.download import fetch
from posebook.datasets.packed import open_packed
from posebook.skeleton import LSP14

ROOT = Path(command.__file__).parents[1]
TRAIN = ("train", "--data", "people", "--epochs", "2", "--batch", "4", "--channels", "4", "4", "4", "--device", "cpu")

pytestmark = pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(),
                                reason="the processes are forked, which needs Linux and does not go with a GPU in use")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A current folder with people, a picture and weights."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 10), ("validation", 5)):
        people_shard(tmp_path / "people" / f"{split}-00000.parquet", count, seed=count)
    Image.fromarray(painted(pose(LSP14, (60, 80), 50), 120, 160, 3)).save("me.jpg")
    torch.manual_seed(0)
    network = networks.PoseNetwork(networks.small({"regression": networks.Head(28, (8,))}))
    networks.save_network("w.safetensors", network, {"skeleton": "LSP14", "dataset": "people", "seed": 0, "stored": 80,
                                                     "mean_pose": np.zeros((14, 2)).tolist()})
    return tmp_path


class Child:
    """A forked process that runs a function, or a command of posebook; what it says goes to a file."""

    def __init__(self, *task, largest_file: int | None = None):
        self.log = Path(f"log-{time.monotonic_ns()}")
        self.number = os.fork()
        if self.number:
            return
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with self.log.open("w", buffering=1) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout = sys.stderr = file
                if largest_file is not None:
                    import resource
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)       # else the process would die of it
                    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
                code = (task[0](*task[1:]) or 0) if callable(task[0]) else command.main(list(task))
        except BaseException:                           # nobody above would tell: the process ends here
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def end(self) -> tuple[int, str]:
        """Exit code (negative: the signal it died of), and what it said."""
        status, until = (0, 0), time.monotonic() + 120
        while not status[0]:
            if time.monotonic() > until:
                os.kill(self.number, signal.SIGKILL)
            status = os.waitpid(self.number, os.WNOHANG)
            time.sleep(0.01)
        code = os.waitstatus_to_exitcode(status[1])
        text = self.log.read_text()
        self.log.unlink()
        return code, text


def sentence(text: str) -> str:
    """The only line that is a message; there must be one, and no traceback."""
    found = [line for line in re.split("[\n\r]", text) if line.startswith("posebook: ")]
    assert len(found) == 1 and "Traceback" not in text, text
    return found[0]


def parts() -> list[str]:
    return [str(path) for path in Path().rglob("*.part")]


def weights_of(folder) -> dict:
    return networks.load_network(Path(folder) / "weights.safetensors")[0].state_dict()


def test_two_processes_that_make_the_same(desk, server):  # noqa: F811
    pack = ("pack", "--data", "people", "--split", "train", "--out", "packed")
    for _ in range(2):
        ends = sorted(child.end() for child in [Child(*pack), Child(*pack)])
        assert ends[0][0] == 0 and ends[1][0] in (0, 2), ends
        if ends[1][0] == 2:
            assert "packed/train exists; remove it, or choose another folder" in sentence(ends[1][1])
        packed = open_packed("packed/train")
        assert len(packed) == 10 and len(packed.images[:]) == 10 and parts() == []
        shutil.rmtree("packed")

    ends = [child.end() for child in [Child(*TRAIN, "--out", "run"), Child(*TRAIN, "--out", "run")]]
    assert [code for code, _ in ends] == [0, 0], ends
    assert Child(*TRAIN, "--out", "alone").end()[0] == 0
    assert parts() == [] and len(results.read_record("run/record.json")["history"]) == 2
    alone = weights_of("alone")
    assert all(torch.equal(value, alone[name]) for name, value in weights_of("run").items())

    for plan in (["trickle"] * 2, ["cut", "trickle"], ["corrupt", "trickle"]):
        server.plan = list(plan)
        get = (fetch, server.url + "file.bin", Path("file.bin"), DIGEST)
        ends = [child.end() for child in [Child(*get), Child(*get), Child(*get)]]
        assert ends == [(0, "")] * 3
        assert hashlib.sha256(Path("file.bin").read_bytes()).hexdigest() == DIGEST and parts() == []
        Path("file.bin").unlink()


def test_two_exports_to_one_file(desk):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    importlib.import_module("torch.onnx._internal.exporter._core")      # as above
    export = ("export", "--weights", "w.safetensors", "--out", "w.onnx")
    ends = [child.end() for child in [Child(*export), Child(*export)]]
    assert [code for code, _ in ends] == [0, 0] and parts() == [], ends
    onnx.checker.check_model(onnx.load("w.onnx"))
    before = Path("w.onnx").read_bytes()
    code, text = Child(*export, largest_file=10_000).end()
    assert code == 2 and "w.onnx could not be written (File too large); make room" in sentence(text)
    assert Path("w.onnx").read_bytes() == before and parts() == []


def test_a_home_that_cannot_be_written_to(desk):
    home = desk / "home"
    home.mkdir(mode=0o555)
    plain = {name: value for name, value in os.environ.items()
             if name not in ("HOME", "MPLCONFIGDIR", "TMPDIR") and not name.startswith("XDG_")}
    may = []
    if os.geteuid() == 0:                               # root may write everywhere, unless it gives that up
        if not shutil.which("setpriv"):
            pytest.skip("run by root, and without setpriv")
        may = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--inh-caps", "-all"]
        if subprocess.run([*may, "true"], check=False, capture_output=True).returncode:
            pytest.skip("root cannot give up its rights here")
    assert subprocess.run([*may, "touch", str(home / "x")], check=False, capture_output=True).returncode
    where = {"HOME": str(home), "MPLCONFIGDIR": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run([*may, sys.executable, "-m", "posebook", "predict", str(desk / "me.jpg"), "--weights",
                           str(desk / "w.safetensors"), "--out", str(desk / "drawn")], cwd=home, text=True, check=False,
                          env={**plain, **where, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert '"joints"' in done.stdout
    with Image.open(desk / "drawn" / "me-pose.png") as drawn:
        drawn.load()
    assert list(home.iterdir()) == []


def test_no_home_and_a_user_without_a_name(desk):
    """As in a container that runs under a number."""
    body = """
import pwd, runpy, sys
def nobody(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = nobody
sys.argv[0] = "posebook"
runpy.run_module("posebook", run_name="__main__", alter_sys=True)
"""
    left = {name: value for name, value in os.environ.items() if name not in (
        "HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MPLCONFIGDIR") and not name.startswith("XDG_")}
    done = subprocess.run([sys.executable, "-c", body, "predict", "me.jpg", "--weights", "w.safetensors", "--out",
                           "drawn"], text=True, check=False, env={**left, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and '"joints"' in done.stdout, done.stderr
    assert Path("drawn/me-pose.png").is_file()


def test_a_full_disk(desk):
    """The largest size that a file may have stands for it: writing fails in the same place, and in the same way."""
    pack = ("pack", "--data", "people", "--split", "train", "--out", "packed")
    predict = ("predict", "me.jpg", "--weights", "w.safetensors", "--out", "drawn")
    assert Child(*TRAIN, "--out", "whole").end()[0] == 0
    for arguments, name, largest in (
            ((*TRAIN, "--out", "run"), "run/checkpoint.pt", 5_000), (pack, "packed/train", 5_000),
            (pack, "packed/train", 100_000), (predict, "drawn/me-pose.png", 5_000)):
        code, text = Child(*arguments, largest_file=largest).end()
        assert code == 2 and f"{name} could not be written (File too large); make room" in sentence(text), text
        assert not Path(name).exists() and parts() == []
    # A checkpoint that was written is kept, and what comes after it fails.
    shutil.copytree("whole", "late")
    for name in ("weights.safetensors", "record.json"):
        (desk / "late" / name).unlink()
    code, text = Child(*TRAIN, "--out", "late", largest_file=5000).end()
    assert code == 2 and "late/weights.safetensors could not be written (File too large)" in sentence(text), text
    assert sorted(path.name for path in Path("late").iterdir()) == ["checkpoint.pt", "data-folder.txt"]
    # With room the same commands go on.
    for arguments in ((*TRAIN, "--out", "run"), (*TRAIN, "--out", "late"), pack, predict):
        code, text = Child(*arguments).end()
        assert code == 0, text
    whole = weights_of("whole")
    for run in ("run", "late"):
        assert all(torch.equal(value, whole[name]) for name, value in weights_of(run).items())
    assert len(open_packed("packed/train").images[:]) == 10 and parts() == []


def full_from(module, name: str, largest: int, *task) -> int:
    """Do a task, on a disk that is full when a function is entered."""
    import resource
    function = getattr(module, name)

    def fills_up(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        return function(*arguments, **options)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    setattr(module, name, fills_up)
    return command.main(list(task))


def test_a_disk_that_is_full_when_the_record_is_written(desk):
    code, text = Child(full_from, results, "write_record", 1000, *TRAIN, "--out", "run").end()
    assert code == 2 and "run/record.json could not be written (File too large); make room" in sentence(text), text
    assert sorted(path.name for path in Path("run").iterdir()) == ["checkpoint.pt", "data-folder.txt",
                                                                   "weights.safetensors"]
    first = weights_of("run")
    assert Child(*TRAIN, "--out", "run").end()[0] == 0
    assert len(results.read_record("run/record.json")["history"]) == 2
    assert all(torch.equal(value, first[name]) for name, value in weights_of("run").items())


def get(url: str) -> None:
    try:
        fetch(url, Path("file.bin"), DIGEST)
    except OSError as error:
        print(f"posebook: {error}")


def test_a_disk_that_is_full_during_a_download(desk, server):  # noqa: F811
    text = Child(get, server.url + "file.bin", largest_file=300_000).end()[1]
    assert "file.bin could not be written (File too large); make room" in sentence(text), text
    assert Path("file.bin.part").stat().st_size == 300_000 and not Path("file.bin").exists()
    assert Child(get, server.url + "file.bin").end() == (0, "")          # what arrived is continued
    assert server.log[-1][1] == "bytes=300000-" and Path("file.bin").read_bytes() == CONTENT and parts() == []


def test_a_disk_that_is_full_while_a_chapter_runs(desk):
    pytest.importorskip("papermill")
    from nbformat import v4, write
    asked = v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["parameters"]})
    for name, code in (("01-small", "print(1)"), ("02-large", "print('x' * 200_000)")):
        write(v4.new_notebook(cells=[asked, v4.new_code_cell(code)], metadata={"kernelspec": {
            "name": "python3", "display_name": "Python 3", "language": "python"}}), f"{name}.ipynb")
    run = ("run", "--book", ".", "--out", "out")
    code, text = Child(*run, largest_file=100_000).end()
    assert code == 2 and "out/02-large-profile=smoke.ipynb could not be written (File too" in sentence(text), text
    there = [f"01-small-profile=smoke.{end}" for end in ("ipynb", "json")]
    assert sorted(path.name for path in Path("out").iterdir()) == there
    before = Path("out", there[1]).read_bytes()
    code, text = Child(*run).end()
    assert code == 0 and "2 runs, 1 of them finished" in text, text
    assert len(list(Path("out").iterdir())) == 4 and Path("out", there[1]).read_bytes() == before


def test_ctrl_c_at_any_moment(desk):
    draw = random.Random(0)
    evaluate = ("evaluate", "--weights", "w.safetensors", "--data", "people")
    pack = ("pack", "--data", "people", "--split", "train", "--out", "packed")
    predict = ("predict", "me.jpg", "--weights", "w.safetensors", "--out", "drawn")
    began = time.monotonic()
    assert Child(*TRAIN, "--out", "whole").end()[0] == 0
    once, stopped = time.monotonic() - began, 0
    for name in ("a-0", "a-1"):
        shutil.copy(results.results_folder() / "tasks-people-plain-regression-0.json", f"{name}.json")
    compare = ("compare", "a", "a", "--folder", ".")
    for arguments, longest in ((TRAIN + ("--out", "run"), once), (evaluate, 0.5), (pack, 0.3), (predict, 0.5),
                               (compare, 0.5)):
        for _ in range(5):
            child = Child(*arguments)
            time.sleep(draw.uniform(0.02, longest))
            os.kill(child.number, signal.SIGINT)
            code, text = child.end()
            assert code in (0, 130), text
            assert parts() == []
            if code:
                assert "stopped; the same command continues where it was" in sentence(text)
                stopped += 1
            if arguments is pack:
                assert Path("packed/train").exists() == (code == 0)
                shutil.rmtree("packed", ignore_errors=True)
    assert stopped                                      # else nothing was tried
    assert Child(*TRAIN, "--out", "run").end()[0] == 0
    whole = weights_of("whole")
    assert all(torch.equal(value, whole[name]) for name, value in weights_of("run").items())


def catches_ctrl_c(number: int) -> bool:
    """Whether a process does anything about SIGINT but die of it."""
    status = Path(f"/proc/{number}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) & 1 << signal.SIGINT - 1)


def test_ctrl_c_while_posebook_is_imported(desk):
    """There it ends as it would by default, without a traceback. (Python's own start is not ours to mend.)"""
    for later in (0, 0.5):
        child = subprocess.Popen([sys.executable, "-m", "posebook", "predict", "me.jpg", "--out", "drawn"], text=True,
                                 env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE,
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # noqa: PLW1509
        for state in (True, False):                     # Python has started; posebook has
            while catches_ctrl_c(child.pid) != state and child.poll() is None:
                time.sleep(0.002)
        time.sleep(later)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
        assert child.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in said, said
        assert later or child.returncode == -signal.SIGINT
