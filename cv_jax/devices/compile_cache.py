"""Persistent cache of compiled programs.

JAX's cache key covers the program, its options, the compiler and the kind of device. The folder
name covers the rest: a program compiled for one processor may crash on another, or round
differently. A loaded program is the compiled one, so a run computes the same bits with both.

A kill can truncate the files of JAX's own cache, which are then never replaced. Here an entry is
written atomically with a SHA-256 of machine, key and program; an entry with a wrong digest, such as
one under the name of another, counts as missing and is compiled and written again. A run never
fails because of the cache.

A loaded program runs as this user. Entries are read only if nobody else can have written them: the
folder and its entries belong to this user, and others cannot write to it.
"""

import contextlib
import errno
import hashlib
import logging
import os
import platform
import stat
import tempfile
from pathlib import Path

import jax
import jaxlib
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

from cv_jax.devices import processor
from cv_jax.errors import printable
from cv_jax.paths import require_utf8

logger = logging.getLogger(__name__)

MIN_COMPILE_SECONDS = 0.1  # smaller programs compile about as fast as they load
MAX_BYTES = 4 * 2**30  # of all folders together; the least recently used entries are deleted
SUFFIX = ".program"
DIGEST_BYTES = 32


def use(where: str) -> Path | None:
    """Use a cache folder for all programs that this process compiles from now on.

    Args:
      where: `config.compile_cache`: "none"; a folder; or "auto", which is
        $JAX_COMPILATION_CACHE_DIR, else cv_jax/programs in $XDG_CACHE_HOME or ~/.cache.

    Returns:
      The folder for this kind of machine; `None` without a cache. A folder that cannot be written
      is logged.
    """
    if where == "auto":
        where = os.environ.get("JAX_COMPILATION_CACHE_DIR") or _default()
    folder = None if where == "none" else _prepared(where)
    # JAX calls this function at the first compilation after a reset.
    compilation_cache.get_file_cache = lambda path: (Programs(Path(path)), path)
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return folder


def machine() -> str:
    """Return a name for the properties that JAX's cache key does not cover.

    These are the version of jaxlib, the processor with its features, and the number of threads
    over which XLA divides work.
    """
    facts = [f"{name}: {value}" for name, value in processor.facts().items()]
    facts += [platform.system(), platform.machine(), str(processor.threads())]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return f"jaxlib-{jaxlib.__version__}-{platform.machine()}-{digest}"


class Programs(CacheInterface):
    """Cache entries of a folder; see `jax._src.compilation_cache_interface`.

    Attributes:
      _path: the folder.
      full: whether a write has failed; there are no further writes then.
    """

    def __init__(self, folder: Path):
        self._path, self.full = folder, False

    def get(self, key: str) -> bytes | None:
        """Return the entry; `None` if it is missing, damaged, or of another user."""
        # No links, and no pipe, which would block.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(self._path / f"{key}{SUFFIX}", flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or _reason(status):
                    return None
                content = file.read()
                os.utime(file.fileno())  # the time of the last use
        except OSError:
            return None
        digest, value = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        return value if self._seal(key, value) == digest else None

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, and replace a damaged one."""
        if self.full:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self._path, delete=False) as file:
                file.write(self._seal(key, value) + value)
            os.replace(file.name, self._path / f"{key}{SUFFIX}")
        except OSError as error:
            self.full = True
            logger.warning(
                "compile cache is off: %s: %s", printable(str(self._path)), error.strerror
            )

    def _seal(self, key: str, value: bytes) -> bytes:
        """SHA-256 of machine, key and program."""
        return hashlib.sha256(f"{self._path.name}\0{key}\0".encode() + value).digest()


def _default() -> str:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(caches) / "cv_jax" / "programs")


def _prepared(where: str) -> Path | None:
    """Return the folder for this machine, created and pruned; `None` if it cannot be written."""
    require_utf8(Path(where), "config.compile_cache")
    folder = Path(where).expanduser().absolute() / machine()
    try:
        if "://" in where:
            raise OSError(errno.ENOTSUP, "object stores are not supported")
        for place in (*reversed(folder.parents), folder):  # `parents=True` would ignore the mode
            if not place.is_dir():
                place.mkdir(exist_ok=True, mode=0o700)
        _require_own(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _make_room(folder.parent)
    except OSError as error:
        logger.warning("compile cache is off: %s: %s", printable(where), printable(error.strerror))
        return None
    return folder


def _require_own(folder: Path) -> None:
    """Raise a `PermissionError` if others can write programs, which run as this user."""
    own = folder.resolve()
    for place in (own, own.parent):
        if reason := _reason(place.stat()):
            raise PermissionError(errno.EPERM, f"{place} {reason}")
    for place in own.parents:
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # they could replace the folder
            raise PermissionError(errno.EPERM, f"others can write to {place}")


def _reason(status: os.stat_result) -> str:
    """Why a file or folder is not of this user alone; "" if it is."""
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others (chmod go-w allows it)"
    return ""


def _make_room(root: Path) -> None:
    """Delete the least recently used entries beyond `MAX_BYTES`."""
    entries = []
    for file in root.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process may delete files too
            status = file.stat()
            entries.append((status.st_mtime, status.st_size, file))
    kept = 0
    for _, size, file in sorted(entries, reverse=True):
        kept += size
        if kept > MAX_BYTES:
            file.unlink(missing_ok=True)
