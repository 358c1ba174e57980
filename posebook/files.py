"""Writing files so that a name always means a whole file, and checksums that say which."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends, and is gone if it fails.

    A kill in the middle leaves what was at `path` before, and a file `*.part` that the next process to write into the
    folder removes. Folders are made as needed.

    Raises:
        OSError: on a full disk, naming `path`.
    """
    path = Path(path)
    part = _part(path)
    try:
        with room(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """The same for a folder that does not exist yet: an empty folder to fill, which becomes `path` at the end.

    Raises:
        FileExistsError: if `path` exists, before or after: of two processes that make it, one wins.
        OSError: on a full disk, naming `path`.
    """
    path = Path(path)
    taken = f"{path} exists; remove it, or choose another folder"
    if path.exists():
        raise FileExistsError(taken)
    part = _part(path)
    shutil.rmtree(part, ignore_errors=True)             # of a process of the same number, long ago
    part.mkdir()
    try:
        with room(path):
            yield part
            try:
                part.rename(path)
            except OSError as error:
                if path.exists():
                    raise FileExistsError(taken) from error
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(path: Path) -> Path:
    """A name beside `path` that is this process's own, in a folder that exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path.parent.absolute(), os.getpid())
    return path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.part")


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Says of what was written when the disk, or what the user may have of it, was full: the system does not.

    Raises:
        OSError: naming `path`, and the remedy.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(error.errno, f"{path} could not be written ({error.strerror}); make room, and run the same "
                      "command again") from error


@functools.cache                                        # once a process for each folder, which may hold many files
def _tidy(folder: Path, process: int) -> None:
    """Remove what killed processes of this machine left in a folder; other machines look after their own."""
    for part in folder.glob("*.part"):
        found = re.fullmatch(rf".+\.{re.escape(platform.node())}\.(\d+)\.part", part.name)
        if found and not _lives(int(found[1])):
            with suppress(OSError):                     # somebody else's, or gone already
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()


def _lives(process: int) -> bool:
    if os.name == "nt":                                 # there, asking may stop it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:                                     # another user's
        return True
    return True


@contextmanager
def reading(path: str | Path, remedy: str, kind: str = "") -> Iterator[None]:
    """Makes one sentence of whatever goes wrong in the block, which reads the file `path`.

    For libraries that raise errors of many kinds when a file is damaged. All mean the same to the reader, who needs to
    know which file it is and the `remedy`. A sentence that begins with the file, or says that it is not there, stays.

    Raises:
        OSError: "PATH cannot be read KIND (what went wrong); REMEDY".
    """
    try:
        yield
    except Exception as error:
        ours = isinstance(error, OSError | ValueError) and str(error).startswith(str(path))
        if ours or isinstance(error, FileNotFoundError):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise OSError(f"{path} cannot be read {kind + ' ' if kind else ''}({reason}); {remedy}") from error


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
