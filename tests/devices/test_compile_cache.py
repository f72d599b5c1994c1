"""Compile cache: damaged entries count as missing, and loaded programs compute the same bits."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cv_jax.devices import compile_cache
from cv_jax.devices.compile_cache import Programs
from cv_jax.run.checkpoint import read_newest
from cv_jax.training import profiling

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402


@pytest.fixture
def restored():
    """Switch back to the default cache after the test."""
    yield
    compile_cache.use("auto")


def test_a_changed_added_or_removed_byte_makes_an_entry_missing(tmp_path):
    programs = Programs(tmp_path)
    assert programs.get("key") is None
    programs.put("key", b"program")
    (file,) = tmp_path.iterdir()  # no temporary file remains
    sound = file.read_bytes()
    assert programs.get("key") == b"program"
    for i in range(len(sound)):
        for bit in range(8):
            changed = bytearray(sound)
            changed[i] ^= 1 << bit
            file.write_bytes(changed)
            assert programs.get("key") is None
        file.write_bytes(sound[:i])
        assert programs.get("key") is None
    file.write_bytes(sound + b"x")
    assert programs.get("key") is None
    programs.put("key", b"another")  # JAX's own cache would keep the damaged file
    assert programs.get("key") == b"another"


def test_an_entry_holds_under_its_name_and_its_machine_only(tmp_path):
    """Its program would run in place of another, or on a processor that lacks its instructions."""
    folders = [tmp_path / "machine", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    Programs(folders[0]).put("one", b"program")
    entry = folders[0] / f"one{compile_cache.SUFFIX}"
    for copy in (folders[0] / f"two{compile_cache.SUFFIX}", folders[1] / entry.name):
        copy.write_bytes(entry.read_bytes())
    assert Programs(folders[0]).get("one") == b"program"
    assert Programs(folders[0]).get("two") is None
    assert Programs(folders[1]).get("one") is None


def test_entries_of_others_links_and_pipes_are_missing(tmp_path):
    programs = Programs(tmp_path)
    for key in ("open", "link", "pipe", "folder"):
        programs.put(key, b"program")
    file = {
        key: tmp_path / f"{key}{compile_cache.SUFFIX}" for key in ["open", "link", "pipe", "folder"]
    }
    file["open"].chmod(0o666)
    file["link"].rename(tmp_path / "elsewhere")
    file["link"].symlink_to("elsewhere")
    file["pipe"].unlink()
    os.mkfifo(file["pipe"])
    file["folder"].unlink()
    file["folder"].mkdir()
    assert [programs.get(key) for key in file] == [None] * 4


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("place", ["root", "machine"])
def test_folders_that_others_can_write_are_refused(tmp_path, mode, place, caplog, restored):
    root = tmp_path / "cache"
    folder = compile_cache.use(str(root))
    Programs(folder).put("key", b"program")
    chosen = {"root": root, "machine": folder}[place]
    chosen.chmod(mode)
    assert compile_cache.use(str(root)) is None
    line = f"compile cache is off: {root}: {chosen} can be written by others (chmod go-w allows it)"
    assert [record.message for record in caplog.records] == [line]
    chosen.chmod(mode & ~0o022)
    assert compile_cache.use(str(root)) == folder


def test_folders_of_others_are_refused(tmp_path, monkeypatch, caplog, restored):
    root = tmp_path / "cache"
    folder = compile_cache.use(str(root))
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert compile_cache.use(str(root)) is None
    assert f"compile cache is off: {root}: {folder} belongs to another user" in caplog.text


def test_a_folder_that_others_can_replace_is_refused(tmp_path, caplog, restored):
    public = tmp_path / "public"
    public.mkdir()
    root = public / "above" / "cache"
    public.chmod(0o1777)  # like /tmp
    assert compile_cache.use(str(root)) is not None
    public.chmod(0o777)
    assert compile_cache.use(str(root)) is None
    assert f"compile cache is off: {root}: others can write to {public}" in caplog.text


def test_new_folders_are_private(tmp_path, restored):
    before = os.umask(0)
    try:
        folder = compile_cache.use(str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in (folder, folder.parent, tmp_path / "a")] == [
        0o700
    ] * 3


def test_a_full_disk_is_logged_once_and_raises_nothing(tmp_path, monkeypatch, caplog):
    def replace(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    programs = Programs(tmp_path)
    for key in "abc":
        programs.put(key, b"program")
        assert programs.get(key) is None
    assert caplog.text.count("compile cache is off") == 1
    assert "No space left on device" in caplog.text


def test_unusable_folders_are_logged_and_unchanged(tmp_path, caplog, restored):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", "/proc/cache", "gs://bucket/cache"):
        assert compile_cache.use(str(where)) is None
        assert f"compile cache is off: {where}: " in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_the_location_of_the_cache(tmp_path, monkeypatch, restored):
    machine = compile_cache.machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compile_cache.use("auto") == tmp_path / "xdg" / "cv_jax" / "programs" / machine
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = tmp_path / "home" / ".cache" / "cv_jax" / "programs" / machine
    assert compile_cache.use("auto") == expected
    assert expected.stat().st_mode & 0o777 == 0o700
    assert compile_cache.use(str(tmp_path / "own")) == tmp_path / "own" / machine
    assert compile_cache.use("none") is None


def test_the_folder_depends_on_processor_threads_and_compiler(monkeypatch):
    info = {
        "x86": "processor\t: {n}\nmodel name\t: EPYC\nflags\t\t: fpu {flag}\ncpu MHz\t\t: {mhz}\n",
        "arm": "processor\t: {n}\nCPU part\t: 0xd40\nFeatures\t: fp {flag}\nBogoMIPS\t: {mhz}\n",
    }

    def name(kind="x86", flag="avx2", mhz=2000, threads=2, jaxlib="0.10.2"):
        text = "\n".join(info[kind].format(n=n, flag=flag, mhz=mhz) for n in range(threads))
        monkeypatch.setattr(Path, "read_text", lambda self: text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(threads)))
        monkeypatch.setattr(compile_cache.jaxlib, "__version__", jaxlib)
        return compile_cache.machine()

    assert name() == name(mhz=3000)
    others = [name(flag="avx512f"), name(threads=4), name(jaxlib="0.11.0"), name("arm")]
    others.append(name("arm", flag="sve"))
    assert len({name(), *others}) == 6
    monkeypatch.setenv("NPROC", "1")
    assert name() not in others


def test_the_least_recently_used_entries_are_deleted(tmp_path, monkeypatch, restored):
    folder = tmp_path / compile_cache.machine()
    other = tmp_path / "jaxlib-0.1-x86_64-000000000000"  # the folder of another machine counts too
    for place, key, age in ((other, "old", 30), (folder, "used", 20), (folder, "new", 10)):
        place.mkdir(exist_ok=True)
        Programs(place).put(key, bytes(1000))
        file = place / f"{key}{compile_cache.SUFFIX}"
        os.utime(file, (1e9 - age, 1e9 - age))
    Programs(folder).get("used")
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 1500)
    compile_cache.use(str(tmp_path))
    assert [file.name for file in folder.iterdir()] == [f"used{compile_cache.SUFFIX}"]
    assert not list(other.iterdir())


# A run of seconds with convolutions, batch normalisation, mixing and weight averages.
NET = {
    "model.widths": "4",
    "model.stem_width": 4,
    "model.stage_sizes": "1",
    "image_size": 8,
    "batch_size": 16,
    "augment": "pad_crop(1)|mixup(0.2)",
    "ema.decay": 0.99,
    "total_steps": 6,
    "schedule.warmup_epochs": None,
    "mesh.devices": 1,
}


@pytest.mark.slow
def test_a_program_from_the_cache_computes_the_same_bits(tmp_path, data_dir, capfd, restored):
    cache = tmp_path / "cache"

    def train(name, where):
        compile_cache.use("none")  # the check of the devices comes before the run sets its cache
        flags = {**NET, "data.dir": data_dir, "compile_cache": where}
        workdir, before = tmp_path / name, profiling.compilation()
        arguments = ["--config", f"{ROOT}/configs/resnet.py", "--workdir", str(workdir)]
        arguments += [f"--config.{key}={value}" for key, value in flags.items()]
        assert launch.main(arguments) == 0
        state, _ = read_newest(workdir / "checkpoints", lambda name: True)
        bits = {name: np.asarray(value).tobytes() for name, value in state.items()}
        texts = [(workdir / f).read_text() for f in ("metrics.jsonl", "summary.json")]
        line = json.loads((workdir / "timing.jsonl").read_text().splitlines()[0])
        assert line["step"] == 1
        assert line["first_step_seconds"] > line["compile_seconds"] > 0
        now = profiling.compilation()
        return (bits, texts), now.loaded - before.loaded, now.programs - before.programs

    fresh, loaded, programs = train("none", "none")
    assert loaded == 0
    written, loaded, _ = train("written", cache)
    assert loaded == 0
    assert written == fresh
    entries = list(cache.glob(f"*/*{compile_cache.SUFFIX}"))
    assert 2 <= len(entries) <= programs
    capfd.readouterr()
    read, loaded, _ = train("read", cache)
    assert loaded == len(entries)
    assert read == fresh
    # XLA warns when it loads a program that was compiled for another machine.
    err = capfd.readouterr().err.lower()
    assert "machine" not in err
    assert "cpu_" not in err

    # Also programs that took long enough to be cached in the second run only.
    entries = list(cache.glob(f"*/*{compile_cache.SUFFIX}"))
    sound = {file: file.read_bytes() for file in entries}
    for file in entries:
        file.write_bytes(sound[file][:-7])
    mended, loaded, _ = train("mended", cache)
    assert loaded == 0
    assert mended == fresh
    assert {file.name for file in cache.glob(f"*/*{compile_cache.SUFFIX}")} == {
        file.name for file in entries
    }
    assert all(Programs(f.parent).get(f.name.removesuffix(f.suffix)) for f in entries)
