"""Downloads that can be trusted: to a temporary name, resumed where they stopped, verified, then renamed.

A file under its final name is therefore always whole and has the published checksum.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:                                     # Windows
    fcntl = None  # type: ignore[assignment]

from posebook.files import room, sha256

BLOCK = 1 << 16


def fetch(url: str, path: Path, digest: str, tries: int = 3, timeout: float = 60.0) -> None:
    """Bring `url` to `path`; does nothing if a file with this SHA-256 is there already.

    The bytes go to `path` + '.part', which a later call continues. After the last byte the checksum is compared:
    a file that does not match is removed and fetched once more from the start.

    Raises:
        OSError: after `tries` attempts, with the reason and what to do; on a full disk at once, naming `path`.
    """
    path = Path(path)
    if path.is_file() and sha256(path) == digest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    reason = ""
    for _ in range(tries):
        with _alone(part):
            if path.is_file() and sha256(path) == digest:                # another process was quicker
                part.unlink(missing_ok=True)
                return
            try:
                with room(path):
                    _continue(url, part, timeout)
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                reason = str(error)
                if part.exists() and not part.stat().st_size:
                    part.unlink()
                continue
            if sha256(part) == digest:
                os.replace(part, path)
                return
            part.unlink()
            reason = "the bytes received do not have the published SHA-256"
    raise OSError(f"{url} could not be fetched: {reason}. Try again later (what arrived is kept and continued), "
                  f"or put the file at {path} by hand")


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Waits until no other process writes to `part` (on systems with `flock`, which a process that dies gives up)."""
    if not fcntl:
        yield
        return
    while True:
        with open(part, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # It may have been renamed or removed meanwhile, and that can happen at any moment: look once only.
            try:
                same = os.path.samestat(os.fstat(file.fileno()), part.stat())
            except FileNotFoundError:
                continue
            if same:
                yield
                return


def _continue(url: str, part: Path, timeout: float) -> None:
    """Append what is missing to `part`; starts over if the server does not continue where asked."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:        # nothing left to send: the part is whole, or longer than the file
            error.close()
            return
        raise
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        received, announced = 0, response.headers.get("Content-Length")
        while block := response.read(BLOCK):
            received += file.write(block)
    # A connection that closes early looks like the end of the file; what arrived is good and can be continued.
    if announced is not None and received < int(announced):
        raise ConnectionError(f"the connection closed after {received} of {announced} bytes")


def fetch_all(base_url: str, files: dict[str, str], folder: Path, workers: int = 8) -> None:
    """Fetch `files` (relative path -> SHA-256) below `base_url` into `folder`, with a progress bar.

    Every file is tried even if another fails.

    Raises:
        OSError: at the end, with the number of failures and the first one's reason.
    """
    from tqdm import tqdm
    failures: list[str] = []

    def one(item: tuple[str, str]) -> None:
        name, digest = item
        try:
            fetch(base_url + name, folder / name, digest)
        except OSError as error:
            failures.append(str(error))

    with ThreadPoolExecutor(workers) as pool:
        for _ in tqdm(pool.map(one, files.items()), total=len(files), unit="file", desc=f"to {folder}"):
            pass
    if failures:
        raise OSError(f"{len(failures)} of {len(files)} files are missing; run the same command again. "
                      f"The first: {failures[0]}")
