"""Compiled programs, kept between processes: what was compiled once is loaded the next time.

JAX keeps them under a key made of the program, its options, the compiler and the kind of device.
What that key leaves out names the folder here: a program compiled for one processor may crash on
another, or round differently. A loaded program is the one that was compiled, so a run computes the
same bits with either.

JAX's own files can be cut short by a kill and are then never replaced. Here an entry appears whole
under its name, carries its SHA-256, and one that fails it counts as missing: it is compiled and
written again. Whatever goes wrong with the folder, a run goes on and compiles for itself.
"""

import contextlib
import errno
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import jax
import jaxlib
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

logger = logging.getLogger(__name__)

MIN_COMPILE_SECONDS = 0.1  # smaller programs are compiled as soon as they are read
MAX_BYTES = 4 * 2**30  # of all folders together; those unused for longest go first
SUFFIX = ".program"
DIGEST_BYTES = 32
# Lines of /proc/cpuinfo that tell kinds of processors apart, of x86 and of Arm.
CPUINFO = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
CPUINFO += tuple(f"CPU {x}" for x in ("implementer", "architecture", "variant", "part", "revision"))


def use(where: str) -> Path | None:
    """Keeps the programs that this process compiles from here on, and loads those that it finds.

    Args:
      where: `config.compile_cache`: "none"; a folder; or "auto", which is
        $JAX_COMPILATION_CACHE_DIR, else cv_jax/programs in $XDG_CACHE_HOME or ~/.cache.

    Returns:
      The folder for this kind of machine; none if nothing is kept, be it because the folder cannot
      be written, which is logged.
    """
    if where == "auto":
        where = os.environ.get("JAX_COMPILATION_CACHE_DIR") or _default()
    folder = None if where == "none" else _prepared(where)
    # JAX asks this function for its cache when it first compiles after a reset.
    compilation_cache.get_file_cache = lambda path: (Programs(Path(path)), path)
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return folder


def machine() -> str:
    """Names what a compiled program depends on beyond JAX's own key: the version of jaxlib, and of
    the host its processor with all its features and the number of threads that XLA divides work
    into."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = [line for line in lines if line.split(":")[0].strip() in CPUINFO]
    except OSError:  # not Linux
        facts = [platform.processor()]
    linux = hasattr(os, "sched_getaffinity")
    threads = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
    facts += [platform.system(), platform.machine(), str(threads), os.environ.get("NPROC", "")]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return f"jaxlib-{jaxlib.__version__}-{platform.machine()}-{digest}"


class Programs(CacheInterface):
    """The entries of a folder; see `jax._src.compilation_cache_interface`.

    Attributes:
      _path: the folder.
      full: whether writing has failed, which is then not tried again.
    """

    def __init__(self, folder: Path):
        self._path, self.full = folder, False

    def get(self, key: str) -> bytes | None:
        """The entry, or none if there is none that is sound."""
        file = self._path / f"{key}{SUFFIX}"
        try:
            content = file.read_bytes()
            os.utime(file)  # used now
        except OSError:
            return None
        digest, value = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        return value if hashlib.sha256(value).digest() == digest else None

    def put(self, key: str, value: bytes) -> None:
        """Writes the entry, in the place of one that was not sound or could not be loaded."""
        if self.full:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self._path, delete=False) as file:
                file.write(hashlib.sha256(value).digest() + value)
            os.replace(file.name, self._path / f"{key}{SUFFIX}")
        except OSError as error:
            self.full = True
            logger.warning("compiled programs are not kept: %s: %s", self._path, error.strerror)


def _default() -> str:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(caches) / "cv_jax" / "programs")


def _prepared(where: str) -> Path | None:
    """The folder for this machine, made, tried and with room in it; none if it cannot be written,
    as those of object stores cannot."""
    folder = Path(where).expanduser().absolute() / machine()
    try:
        if "://" in where:
            raise OSError(errno.ENOTSUP, "object stores are not supported")
        # Whoever can write here can run code as the user: nobody else may.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _make_room(folder.parent)
    except OSError as error:
        logger.warning("compiled programs are not kept: %s: %s", where, error.strerror)
        return None
    return folder


def _make_room(root: Path) -> None:
    """Deletes the entries that were unused for longest, until `MAX_BYTES` are kept."""
    entries = []
    for file in root.glob(f"*/*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            status = file.stat()
            entries.append((status.st_mtime, status.st_size, file))
    kept = 0
    for _, size, file in sorted(entries, reverse=True):
        kept += size
        if kept > MAX_BYTES:
            file.unlink(missing_ok=True)
