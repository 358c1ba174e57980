"""Put beside the page with the network in it (assets/live) the files that it loads, into assets/live/built.

    python tools/build_live.py [--out FOLDER] [--cache FOLDER]

These are onnxruntime-web, from its npm package; the book's networks as ONNX files; a few pictures of people; and a
list of all this, live.json. None of it is committed: the runtime is large, and the rest is made from files that are.
What is there already, made from the same things, is left alone, and the package is kept in a cache: only the first
time needs the internet.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np

from posebook import export, geometry, networks, results
from posebook.datasets import people
from posebook.datasets.download import fetch
from posebook.files import sha256, whole_file
from posebook.skeleton import ABSENT, H36M17, SKELETONS, convert

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "assets" / "live" / "built"

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
DIGEST = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""SHA-256 of the package; its SHA-512 was compared with the one that the registry publishes."""
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"

NETWORKS = {"people": "people, the synthetic pictures of this book",
            "lspet": "photographs (Leeds Sports Pose, extended)"}
"""Data set -> what the page calls it. Both have the three heads of the chapter on detection."""
SCORED = {"regression": "network", "joints_best": "best_window", "joints_mean": "joint_windows"}
"""Where joints can be taken from -> its row in the record's scores."""
SCORE = "pck@0.2_torso"

EXAMPLES = {
    658: "A person in shorts faces us, hands before the chest",
    240: "A man with white hair and dark clothes faces us, knees a little bent",
    95: "A woman with a ponytail runs along a shore, seen from the side",
    336: "A man in grey; a wooden board hides his hips",
    315: "A man in a blue shirt at dusk, one arm stretched out",
    682: "A man at dusk with both arms raised",
    14: "A woman bends to the side and kicks, one leg level",
    425: "A man falls head first over a meadow",
}
"""Row of the test split of people -> what the picture shows. Chosen by eye for different skins, poses and difficulties,
without looking for ones that come out well: the last three are poses that the network seldom gets."""


def main(arguments: list[str] | None = None) -> int:
    """Build and report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="default: assets/live/built")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="for the package of the runtime")
    options = parser.parse_args(arguments)
    try:
        made = build(options.out, options.cache)
    except (OSError, ValueError, ImportError) as error:
        print(f"the page with the network cannot be built: {error}", file=sys.stderr)
        return 1
    total = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {total / 1e6:.1f} MB, {'made' if made else 'up to date'}")
    return 0


def cache_folder() -> Path:
    """Where the package is kept between builds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posebook"


def build(out: Path = OUT, cache: Path | None = None) -> bool:
    """Fill `out`; False if all was there already. The list is written last: a folder that has it is whole.

    Raises:
        OSError: if the runtime can be had neither from the cache nor from the registry, or a file is damaged;
        ValueError, ImportError: if a network cannot be exported.
    """
    key = _key()
    if _is_made(out, key):
        return False
    (out / "live.json").unlink(missing_ok=True)
    runtime(out, cache or cache_folder())
    shown = {name: _network(name, out) for name in NETWORKS}
    found = {"key": key, "runtime": {"version": VERSION, "script": SCRIPT, "binary": f"{BINARY}.gz"},
             "networks": shown, "default": "people", "photographs": "lspet", "examples": _examples(out)}
    found["bytes"] = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    with whole_file(out / "live.json") as part:
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return True


def runtime(out: Path, cache: Path) -> None:
    """The two files of onnxruntime-web that a page needs, the large one compressed (14 MB become 3.7).

    Raises:
        OSError: see `build`.
    """
    registry = os.environ.get("npm_config_registry") or "https://registry.npmjs.org"  # noqa: SIM112  (npm's own spelling)
    fetch(f"{registry.rstrip('/')}/onnxruntime-web/-/{PACKAGE}", cache / PACKAGE, DIGEST)
    try:
        with tarfile.open(cache / PACKAGE) as package:
            # Two files by name, into names of our own: no path in the archive is followed.
            script, binary = (package.extractfile(f"package/dist/{name}").read() for name in (SCRIPT, BINARY))
    except (tarfile.TarError, KeyError, AttributeError, EOFError) as error:
        raise OSError(f"{cache / PACKAGE} is no package of onnxruntime-web with {SCRIPT} and {BINARY}") from error
    for name, content in ((SCRIPT, script), (f"{BINARY}.gz", gzip.compress(binary, 9, mtime=0))):
        with whole_file(out / name) as part:
            part.write_bytes(content)


def _network(dataset: str, out: Path) -> dict:
    network, origin = networks.load_network(weights(dataset))
    about = export.export_network(network, origin, out / f"{dataset}.onnx")
    record = results.read_record(f"tasks-{dataset}-both-0")
    scores = {source: record["scores"]["all"][row][SCORE] for source, row in SCORED.items()}
    return {"file": f"{dataset}.onnx", "title": NETWORKS[dataset], "about": about, "scores": scores,
            "source": max(scores, key=scores.get)}


def weights(dataset: str) -> Path:
    """The shipped weights that the page's network is made from."""
    return results.results_folder("weights") / f"detection-{dataset}.safetensors"


def _examples(out: Path) -> list[dict]:
    """Write the pictures as they lie in the data set, byte by byte; their boxes and true joints for the list."""
    rows = people.read_shard(people.find_shards("test")[0], ("image", "joints2d", "state"))
    target, found = SKELETONS["LSP14"], []
    for row, alt in EXAMPLES.items():
        with whole_file(out / f"person-{row}.jpg") as part:
            part.write_bytes(rows["image"][row])
        joints, state = convert(rows["joints2d"][row].reshape(1, 17, 2), rows["state"][row][None], H36M17, target)
        box = geometry.joints_box(joints[0], state[0])
        found.append({"file": f"person-{row}.jpg", "alt": alt, "box": box.round(2).tolist(),
                      "joints": [None if s == ABSENT else np.round(p, 2).tolist()
                                 for p, s in zip(joints[0].astype(float), state[0], strict=True)]})
    return found


def _key() -> str:
    """Changes with whatever the files are made from."""
    code = [Path(__file__), *(Path(module.__file__) for module in (export, networks, geometry, people))]
    records = [results.results_folder() / f"tasks-{name}-both-0.json" for name in NETWORKS]
    sources = [*code, *records, *map(weights, NETWORKS), people.find_shards("test")[0]]
    return hashlib.sha256("".join(sha256(path) for path in sources).encode()).hexdigest()


def _is_made(out: Path, key: str) -> bool:
    try:
        found = json.loads((out / "live.json").read_text(encoding="utf-8"))
        return found["key"] == key and all((out / name).stat().st_size == size for name, size in found["bytes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):      # damaged: made again
        return False


if __name__ == "__main__":
    sys.exit(main())
