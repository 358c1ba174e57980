"""Writing files so that a name always means a whole file, and checksums that say which."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends, and is gone if it fails.

    A kill in the middle leaves what was at `path` before. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(folder: str | Path) -> dict[str, str]:
    """File name -> SHA-256, as the file SHA256SUMS in `folder` says; empty without it.

    Raises:
        OSError: if the file is damaged, naming it.
    """
    path = Path(folder) / "SHA256SUMS"
    lines = path.read_bytes().decode("utf-8", "replace").splitlines() if path.is_file() else []
    words = [line.split(maxsplit=1) for line in lines if line.strip()]
    if any(len(pair) != 2 or len(pair[0]) != 64 for pair in words):
        raise OSError(f"{path} is damaged: every line must be a SHA-256 and a file name; restore it, for example with "
                      "`git checkout`, or remove it to do without the check")
    return {name: digest for digest, name in words}


def write_sums(folder: str | Path, sums: dict[str, str]) -> None:
    """Write SHA256SUMS in the form that `sha256sum -c` reads."""
    with whole_file(Path(folder) / "SHA256SUMS") as part:
        part.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), encoding="utf-8")
