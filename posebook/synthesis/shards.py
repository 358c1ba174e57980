"""The files of a data set: Parquet shards, written whole, with checksums; a run that was stopped goes on."""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posebook import interrupts
from posebook.files import read_sums, reading, sha256, whole_file, write_sums
from posebook.synthesis.assets import find_assets
from posebook.synthesis.pools import SPLITS, fingerprint, open_studio
from posebook.synthesis.record import PER_SUBJECT, Recipe, render_record, schema
from posebook.synthesis.render import Surface

if TYPE_CHECKING:
    from tqdm import tqdm

SHARD = 1000
"""Pictures in a file; a multiple of `PER_SUBJECT`."""
JOB = 5 * PER_SUBJECT
"""Pictures that a worker makes at a time."""


def synthesize(assets: str | Path, out: str | Path, counts: dict[str, int], seed: int, recipe: Recipe | None = None,
               workers: int = 1, progress: bool = False) -> dict[str, list[Path]]:
    """Make a data set: files `<split>-00000.parquet` ... of `SHARD` pictures each, SHA256SUMS and recipe.json.

    The same arguments give the same bytes, whatever the number of workers. A run that was stopped goes on where it
    was when it is started again: finished files whose checksums hold are kept.

    Args:
        assets: folder with the ingredients (see `find_assets`); out: folder for the files, made if needed.
        counts: pictures for each of "train", "validation", "test"; a split may be left out.
        seed: an integer, at least 0; recipe: what is in the pictures; workers: processes.
        progress: show a progress bar.

    Returns:
        Split -> its files.

    Raises:
        FileNotFoundError: if an ingredient is missing. RuntimeError: if the ray caster is not installed, or a worker
        was killed. OSError: if the disk is full. ValueError: on an unknown split, a wrong number, or if `out` holds
        a set made in another way or of other ingredients.
    """
    recipe = recipe or Recipe()
    _check(counts, seed, workers)
    find_assets(assets)
    Surface(np.eye(3), np.array([[0, 1, 2]]))  # the ray caster is there
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the pictures")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, {"seed": int(seed), "shard": SHARD, **asdict(recipe),
                 "ingredients": fingerprint(open_studio(str(assets)).pools)})
    files = {split: [out / f"{split}-{i:05d}.parquet" for i in range(-(-counts[split] // SHARD))]
             for split in SPLITS if split in counts}
    _refuse_strangers(out, files)
    sums = read_sums(out)
    with _executor(workers) as executor, _plain_words(out), _bar(sum(counts.values()), progress) as bar:
        for split, paths in files.items():
            for i, path in enumerate(paths):
                first, last = i * SHARD, min((i + 1) * SHARD, counts[split])
                if _finished(path, sums, last - first):
                    bar.update(last - first)
                    continue
                _write(path, _watched(_rows(executor, str(assets), split, first, last, seed, recipe), bar))
                sums[path.name] = sha256(path)
                write_sums(out, sums)
    assert_no_leak({split: distinct(paths) for split, paths in files.items()})
    return files


def _check(counts: dict[str, int], seed: int, workers: int) -> None:
    if unknown := set(counts) - set(SPLITS):
        raise ValueError(f"unknown split {', '.join(sorted(unknown))}; there are {', '.join(SPLITS)}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"the seed must be an integer, at least 0, not {seed!r}")
    numbers = (*counts.values(), workers)
    if not counts or not all(isinstance(n, int | np.integer) and n >= 1 for n in numbers):
        raise ValueError("counts and workers must be integers, at least 1")


def _claim(out: Path, wanted: dict) -> None:
    """Note in `out` how its files are made, or refuse if they were made in another way."""
    path = out / "recipe.json"
    if path.is_file():
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose an empty folder") from error
        if found != wanted:
            other = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
            raise ValueError(f"{out} holds pictures made with another {', '.join(other)}; choose an empty folder")
        return
    if strange := next(out.glob("*.parquet"), None):
        raise ValueError(f"{out} holds {strange.name}, but no recipe.json that says how it was made; choose an empty "
                         "folder")
    with whole_file(path) as part:
        part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _refuse_strangers(out: Path, files: dict[str, list[Path]]) -> None:
    """Files of a split beyond those asked for would be read along with them."""
    for split, paths in files.items():
        if more := sorted(set(out.glob(f"{split}-*.parquet")) - set(paths)):
            raise ValueError(f"{out} already holds more pictures than asked for, such as {more[0].name}; ask for more, "
                             "or choose an empty folder")


def _finished(path: Path, sums: dict[str, str], rows: int) -> bool:
    import pyarrow.parquet as pq
    return (path.is_file() and sums.get(path.name) == sha256(path)
            and pq.read_metadata(path).num_rows == rows)


@contextmanager
def _executor(workers: int) -> Iterator[Executor | None]:
    """Processes to work in, or None for this one."""
    if workers == 1:
        yield None
        return
    from multiprocessing import get_context
    # one thread for each process: two pools of threads on the same cores only wait for each other
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), interrupts.end_silently) as pool:
            with interrupts.starting():
                for _ in range(workers):
                    pool.submit(int)                     # each starts one
            yield pool
    finally:
        os.environ.pop("OPENBLAS_NUM_THREADS")
        if before is not None:
            os.environ["OPENBLAS_NUM_THREADS"] = before


@contextmanager
def _plain_words(out: Path) -> Iterator[None]:
    """Say in one sentence what went wrong with the machine, and that nothing finished is lost."""
    again = "finished files are kept: run the same command again to go on"
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(f"a worker process was killed, most often for want of memory; {again}, with fewer workers"
                           ) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, f"the disk that holds {out} is full; make room; {again}") from error


def _rows(executor: Executor | None, assets: str, split: str, first: int, last: int, seed: int,
          recipe: Recipe) -> Iterator[dict]:
    jobs = [(assets, split, start, min(start + JOB, last), seed, recipe) for start in range(first, last, JOB)]
    for rows in (executor.map if executor else map)(_work, jobs):
        yield from rows


def _work(job: tuple) -> list[dict]:
    assets, split, first, last, seed, recipe = job
    studio = open_studio(assets)
    return [render_record(studio, split, index, seed, recipe) for index in range(first, last)]


def _write(path: Path, rows: Iterator[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = pa.Table.from_pylist(list(rows), schema=schema())
    floats = {f"{name}.list.element": "BYTE_STREAM_SPLIT"
              for name in ("joints2d", "joints3d", "camera", "box", "root", "view", "pose")}
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd", compression_level=19, column_encoding=floats,
                       use_dictionary=["subject", "clip", "action", "background", "effects", "look"],
                       write_statistics=False, row_group_size=4096)


@contextmanager
def _bar(total: int, show: bool) -> Iterator[tqdm]:
    from tqdm import tqdm
    with tqdm(total=total, unit="picture", disable=not show) as bar:
        yield bar


def _watched(rows: Iterator[dict], bar: tqdm) -> Iterator[dict]:
    for row in rows:
        bar.update()
        yield row


def distinct(paths: list[Path]) -> dict[str, set[str]]:
    """The subjects, clips and backgrounds that occur in some files."""
    import pyarrow.parquet as pq
    found: dict[str, set[str]] = {"subject": set(), "clip": set(), "background": set()}
    for path in paths:
        with reading(path, "make it again", "as people"):
            table = pq.read_table(path, columns=list(found))
            for name, values in found.items():
                values.update(table[name].unique().to_pylist())
    return found


def assert_no_leak(splits: dict[str, dict[str, set[str]]]) -> None:
    """Raise ValueError if two splits, as `distinct` describes them, share a subject, a clip or a background."""
    for one, other in itertools.combinations(splits, 2):
        for column, values in splits[one].items():
            if shared := values & splits[other][column]:
                raise ValueError(f"{one} and {other} share the {column} {min(shared)}; keep the splits apart")
