"""Faults of the data of a run: folders of images and prepared records.

A start must refuse changed data in one line, and `verify` must name them; with the old data in
place the run ends with the right result. `FAULTS` is like that of `stored_faults`.
"""

import copy
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import ml_collections
from fault_injection import CaseFailed, flip_bit, truncate
from stored_faults import append, edit, empty, remove, replace_by_entry, write_hostile
from trained_runs import Case, Struck, called, require_result

from cv_jax.commands import verify
from cv_jax.errors import ExitCode
from cv_jax.run import json_files
from cv_jax.run import workdir as records
from cv_jax.training import experiment

Strike = Callable[[Path, random.Random], str]


def _images(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def _image(damage: Strike) -> Strike:
    def strike(root, draw):
        file = draw.choice(_images(root))
        return f"{file.relative_to(root)} {damage(file, draw)}"

    return strike


def _exchange(a: Path, b: Path) -> str:
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)
    return f"{a.parent.name}/{a.name} ↔ {b.parent.name}/{b.name}"


def exchange_images(root: Path, draw: random.Random) -> str:
    """Exchange two images of two classes."""
    split = draw.choice(["train", "val"])
    pair = [draw.choice(_images(root / split / label)) for label in ("cat", "dog")]
    return f"{split}: {_exchange(*pair)}"


def rename_image(root: Path, draw: random.Random) -> str:
    """Give an image another name, or move it to another class or split."""
    file = draw.choice(_images(root))
    folder = draw.choice(sorted(path for path in root.glob("*/*")))
    goal = folder / f"{draw.randint(10, 99)}.png"
    file.rename(goal)
    return f"{file.relative_to(root)} → {goal.relative_to(root)}"


def add_image(root: Path, draw: random.Random) -> str:
    """Copy an image, or link to it."""
    file = draw.choice(_images(root))
    goal = file.with_name(f"{draw.randint(10, 99)}.png")
    if draw.random() < 0.3:
        goal.symlink_to(file.name)
    else:
        shutil.copy2(file, goal)
    return f"{goal.relative_to(root)} added"


def rename_class(root: Path, draw: random.Random) -> str:
    """Rename, exchange or remove the folder of a class."""
    split = root / draw.choice(["train", "val"])
    kind = draw.choice(["renamed", "exchanged", "removed", "emptied"])
    if kind == "renamed":
        (split / "cat").rename(split / "lynx")
    elif kind == "exchanged":
        _exchange(split / "cat", split / "dog")
    else:
        shutil.rmtree(split / "cat")
        if kind == "emptied":
            (split / "cat").mkdir()
    return f"class {split.name}/cat {kind}"


def rot(file: Path, draw: random.Random) -> str:
    """Flip a bit; size and modification time stay."""
    state = file.stat()
    what = flip_bit(file, draw)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    return f"{what}, with the old time"


def _bomb(file: Path, draw: random.Random) -> str:
    """A bitmap of a few bytes whose header says that it is large."""
    side = draw.choice([30000, 2**31 - 1])
    head = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, side, side, *(1, 24, *[0] * 6)
    )
    file.write_bytes(head)
    return f"says that it has {side} × {side} pixels"


def _sparse(file: Path, draw: random.Random) -> str:
    os.truncate(file, 2**40)
    return "is a sparse file of a TiB"


def _script(file: Path, draw: random.Random) -> str:
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touch ps) print\n")
    return "is PostScript"


def damage_image(file: Path, draw: random.Random) -> str:
    """Damage an image in any way."""
    kinds = (flip_bit, rot, truncate, empty, remove, replace_by_entry, write_hostile, append)
    return draw.choice([*kinds, _bomb, _sparse, _script])(file, draw)


def exchange_shards(root: Path, draw: random.Random) -> str:
    """Exchange two files of records, or the labels of two splits."""
    names = [sorted(root.glob("train-*")), sorted(root.glob("*.npy"))]
    return _exchange(*draw.sample(draw.choice([n for n in names if len(n) > 1]), 2))


def damage_records(root: Path, draw: random.Random) -> str:
    """Damage a file of records or labels."""
    file = draw.choice(sorted(p for p in root.iterdir() if p.suffix in (".array_record", ".npy")))
    kinds = (flip_bit, rot, truncate, empty, remove, replace_by_entry, write_hostile, append)
    return f"{file.name} {draw.choice(kinds)(file, draw)}"


def edit_index(root: Path, draw: random.Random) -> str:
    """Damage the index of the records, or change a value in it."""
    file = root / "index.json"
    kind = draw.choice([edit, edit, truncate, empty, remove, replace_by_entry, write_hostile])
    return f"index.json {kind(file, draw)}"


def touch(root: Path, draw: random.Random) -> str:
    """Change what is no part of the data: times, other files, the order on the disk."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    file = draw.choice(files)
    os.utime(file, (1, 1))
    other = draw.choice([".DS_Store", "README.txt", "notes"])
    (root / other).write_text("notes")
    copy_ = file.with_name("copy")
    shutil.copy2(file, copy_)
    copy_.rename(file)
    return f"{file.relative_to(root)} touched and copied, {other} added"


def _fault(name: str, strike: Strike, harmless: bool | None = False) -> Callable[[Case], Struck]:
    """Return the fault `strike` of the data of a run; `harmless=None`: it may be harmless."""

    def fault(case: Case) -> Struck:
        case = Case(case.trained, case.folder, case.draw, name)
        source = Path(case.run.parts.config.data.name.partition(":")[2])
        root, path = case.folder / "data", case.copy(finished=case.draw.random() < 0.5)
        shutil.copytree(source, root)
        config = copy.deepcopy(case.run.parts.config)
        config.data.name = f"{config.data.name.partition(':')[0]}:{root}"
        record = json_files.read_record(path / "config.json")
        json_files.write_record(path / "config.json", {**record, "data.name": config.data.name})
        what = strike(root, case.draw)
        line = _start(config, path, root)
        if harmless not in (None, line is None):
            raise CaseFailed(f"wrong: {what}: {line or 'accepted'}")
        _require_named(case, path, root, line is None)
        if case.draw.random() < 0.25:
            _end(case, config, path, root, source)
        return Struck(what, told="at once" if line is None else "after advice")

    return fault


def _start(config: ml_collections.ConfigDict, path: Path, root: Path) -> str | None:
    """Return why a start refuses the data; `None` if it does not."""

    def check():
        parts = experiment.build(config)
        records.check(path, parts.config, parts.fingerprint, classes=parts.classes)
        return 0

    code, said = called(check)
    line = said.splitlines()[-1] if code else None
    if code == ExitCode.FAILED and str(root) in line:  # an image that cannot be decoded
        return line
    if code not in (ExitCode.DONE, ExitCode.MISTAKE):
        raise CaseFailed(f"wrong: exit code {code}: {said}")
    return line


def _end(
    case: Case, config: ml_collections.ConfigDict, path: Path, root: Path, source: Path
) -> None:
    """Put the old data back, and train to the end."""
    shutil.rmtree(root)
    shutil.copytree(source, root)
    line = _start(config, path, root)
    if line is not None:
        raise CaseFailed(f"lost: the old data are not accepted: {line}")
    code, said = case.start()
    if code:
        raise CaseFailed(f"lost: {said}")
    require_result(case, path)


def _require_named(case: Case, path: Path, root: Path, harmless: bool) -> None:
    """Check that `verify` names changed data, of a run and of prepared records."""
    _, said = called(verify.main, [str(path)])
    named = re.search("changed since the training|not checked: ", said)
    if bool(named) == harmless:
        raise CaseFailed(f"wrong: verify: {said}")
    if case.name == "records":
        code, said = called(verify.main, [str(root)])
        if code and harmless:
            raise CaseFailed(f"wrong: verify of the records: {said}")


FAULTS: dict[str, Callable[[Case], Struck]] = {
    "images of two classes exchanged": _fault("photos", exchange_images),
    "image renamed or moved": _fault("photos", rename_image),
    "image added": _fault("photos", add_image),
    "damaged or hostile image": _fault("photos", _image(damage_image)),
    "class renamed, exchanged, removed or emptied": _fault("photos", rename_class),
    "shards or labels exchanged": _fault("records", exchange_shards),
    "damaged shard or labels": _fault("records", damage_records),
    "damaged or edited index of records": _fault("records", edit_index, harmless=None),
    "data touched or copied": _fault("photos", touch, harmless=True),
    "records touched or copied": _fault("records", touch, harmless=True),
}
