"""Finding and unpacking the ingredients: body and wardrobe, motion capture, panoramas.

`--assets DIR` is a folder with `makehuman.tar.gz` (or an unpacked `makehuman/`), `motion/` (archives, unpacked or
not) and `environments/`. Archives are unpacked once into a cache folder, never beside the caller's files.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

MOST_TIMES, MOST_BYTES = 100, 1 << 28
"""An archive may unpack to so many times its size, or so many bytes, whichever is more. MakeHuman's unpacks to a few
times its size; a gzip of zeros to a thousand times."""
MOTION_SETS = ("cmu_asf_amc", "cmu_expmap", "cmu_bvh", "humanoid3d")


@dataclass(frozen=True)
class Assets:
    """Where the unpacked ingredients lie."""

    makehuman: Path
    motion: tuple[Path, ...]
    environments: Path


def cache_folder() -> Path:
    """`$POSEBOOK_CACHE`, else `~/.cache/posebook`."""
    return Path(os.environ.get("POSEBOOK_CACHE") or Path.home() / ".cache" / "posebook") / "assets"


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive into `folder`, whole or not at all; does nothing if the folder is already there.

    Raises:
        ValueError: if the archive is damaged or unpacks to far more than its size, or a member would land outside
        `folder`, or is a link or a device.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    room = max(MOST_BYTES, MOST_TIMES * archive.stat().st_size)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                target = (scratch / member.name).resolve()
                if not (member.isfile() or member.isdir()) or not target.is_relative_to(scratch.resolve()):
                    raise ValueError(f"{archive}: the member {member.name!r} is a link or leaves the folder; "
                                     "fetch the archive again from its source")
                room -= member.size
                if room < 0:
                    raise ValueError(f"{archive} unpacks to more than {MOST_TIMES} times its size; fetch the archive "
                                     "again from its source")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None, "a file has content"
                with source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
        try:
            os.replace(scratch, folder)
        except OSError:  # another process was first: its copy is as good
            if not folder.is_dir():
                raise
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error, UnicodeError, OverflowError) as error:
        raise ValueError(f"{archive} is damaged ({error}); fetch it again from its source") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def find_assets(folder: str | Path) -> Assets:
    """Locate the ingredients below `folder`, unpacking archives into the cache.

    Raises:
        FileNotFoundError: that names the missing ingredient and where to fetch it.
    """
    folder = Path(folder)
    makehuman = _unpacked(folder, "makehuman")
    if makehuman is None or not (makehuman / "base_mesh" / "base.obj").is_file():
        raise FileNotFoundError(f"{folder} holds no makehuman.tar.gz and no makehuman/base_mesh/base.obj: fetch body, "
                                "rig and wardrobe from GitHub makehumancommunity/makehuman-assets and "
                                "makehumancommunity/mpfb2 (see data/README.md)")
    for needed in ("rigs/rig.cmu_mb.json", "rigs/weights.cmu_mb.json", "targets/macrodetails", "clothes", "hair"):
        if not (makehuman / needed).exists():
            raise FileNotFoundError(f"{makehuman} lacks {needed}: fetch the whole of body, rig and wardrobe from "
                                    "GitHub makehumancommunity/makehuman-assets and makehumancommunity/mpfb2")
    motion = tuple(path for name in MOTION_SETS if (path := _unpacked(folder / "motion", name)) is not None)
    if not motion:
        raise FileNotFoundError(f"{folder}/motion holds none of {', '.join(MOTION_SETS)}: fetch motion capture from "
                                "the CMU Graphics Lab data base (see data/README.md)")
    environments = folder / "environments"
    if not any(environments.glob("*.jpg")):
        raise FileNotFoundError(f"{environments} holds no panorama (*.jpg): fetch equirectangular pictures from "
                                "Poly Haven (see data/README.md)")
    return Assets(makehuman, motion, environments)


def _unpacked(folder: Path, name: str) -> Path | None:
    if (folder / name).is_dir():
        return folder / name
    archive = folder / f"{name}.tar.gz"
    if not archive.is_file():
        return None
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return extract(archive, cache_folder() / f"{name}-{digest}") / name
