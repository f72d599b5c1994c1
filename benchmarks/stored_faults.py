"""Faults of the files of a run at rest: damage, edits, exchanges, renamings, hostile content.

Each fault in `FAULTS` takes a `trained_runs.Case`, copies runs into its folder, and returns what it
struck; `trained_runs.recover` follows.
"""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from fault_injection import flip_bit, truncate
from trained_runs import Case, Struck, digests

from cv_jax.run import json_files

# Files that `verify` does not compare: the speed of the run, and who holds its lock.
UNSEEN = ("timing.jsonl", "lock")
RECORDS = ("config.json", "run.json", "classes.json", "summary.json", "metrics.jsonl")

# ---- One file


def empty(file: Path, draw: random.Random) -> str:
    os.truncate(file, 0)
    return "emptied"


def remove(file: Path, draw: random.Random) -> str:
    file.unlink()
    return "removed"


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(file.parent)  # names of sockets are short
        server.bind(file.name)
        os.chdir(before)


ENTRIES: dict[str, Callable[[Path], None]] = {
    "a folder": lambda file: file.mkdir(),
    "a folder with a file": lambda file: (file.mkdir(), (file / "thesis.tex").write_text("x")),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a link to nothing": lambda file: file.symlink_to("nowhere"),
    "a link to itself": lambda file: file.symlink_to(file.name),
}


def replace_by_entry(file: Path, draw: random.Random) -> str:
    """Put something that is not a file in the place of a file."""
    kind = draw.choice(list(ENTRIES))
    file.unlink()
    ENTRIES[kind](file)
    return f"replaced by {kind}"


HOSTILE: dict[str, Callable[[random.Random], bytes]] = {
    "nested brackets": lambda draw: b"[" * 10**5 + b"]" * 10**5,
    "a large number": lambda draw: b'{"step": 1' + b"0" * 5000 + b"}",
    "NaN": lambda draw: b'{"step": NaN, "sha256": Infinity}',
    "a list": lambda draw: b"[]",
    "a text": lambda draw: b'"config"',
    "null": lambda draw: b"null\n",
    "control characters": lambda draw: b'{"\\u001b[31m\\nerror: done": "\x1b[31m\x07"}',
    "no UTF-8": lambda draw: b"\xff\xfe{}\xe9",
    "random bytes": lambda draw: draw.randbytes(draw.randrange(1, 2000)),
    "zeros": lambda draw: bytes(draw.randrange(1, 2000)),
    "a pickle": lambda draw: b"cos\nsystem\n(S'touch pickled'\ntR.",
}


def write_hostile(file: Path, draw: random.Random) -> str:
    """Replace the content of a file by one that a stranger may have written."""
    kind = draw.choice(list(HOSTILE))
    file.write_bytes(HOSTILE[kind](draw))
    return f"replaced by {kind}"


def append(file: Path, draw: random.Random) -> str:
    """Append bytes that end no line."""
    with file.open("ab") as opened:
        opened.write(draw.choice([b"{", b"}", b"\x00", b"x" * 50, b'{"step": 1']))
    return "with more bytes at its end"


def edit(file: Path, draw: random.Random) -> str:
    """Change one value in JSON text; the text stays in the form in which values are written."""
    if file.suffix == ".jsonl":
        lines = file.read_text().splitlines()
        place = draw.randrange(len(lines))
        value = json.loads(lines[place])
        what = _change(value, draw)
        lines[place] = json.dumps(value)
        file.write_text("".join(f"{line}\n" for line in lines))
        return f"line {place}: {what}"
    value = json.loads(file.read_text())
    what = _change(value, draw)
    file.write_text(json_files._json_text(value))
    return what


def _change(value: dict | list, draw: random.Random) -> str:
    """Change one leaf in place, and return its name."""
    leaves = [
        (inner, key, f"{name}.{key}")
        for name, inner in _containers(value, "")
        for key in (inner if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], dict | list)
    ]
    inner, key, name = draw.choice(leaves)
    old = inner[key]
    others = [5.0, 0, 1, -3, 10**9, "other", "", None, True, float("nan")]
    others = [x for x in others if repr(x) != repr(old)]
    inner[key] = draw.choice(others)
    return f"{name.lstrip('.')} is {inner[key]!r}, not {old!r}"


def _containers(value: dict | list, name: str):
    yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from _containers(inner, f"{name}.{key}")


def forbid(file: Path, draw: random.Random) -> str:
    """Take all permissions from a file, or from its folder."""
    path = draw.choice([file, file, file.parent])
    path.chmod(0)
    return f"without permissions: {path.name}"


def draw_file(path: Path, draw: random.Random, json_only: bool = False) -> Path:
    """Draw a group of files with equal probability, then a file of this group."""
    folder = path / "checkpoints"
    groups = [[path / name] for name in (*RECORDS, *UNSEEN) if not json_only or "lock" not in name]
    inside = ("[0-9]*/*.json", "[0-9]*/*.jsonl") + (() if json_only else ("[0-9]*/state/**/*",))
    groups += [sorted(folder.glob(pattern)) for pattern in inside] * 2
    groups = [[p for p in group if p.is_file() and p.stat().st_size] for group in groups]
    return draw.choice(draw.choice([group for group in groups if group]))


def _damaged(damage: Callable[[Path, random.Random], str], json_only: bool = False) -> Callable:
    def fault(case: Case) -> Struck:
        finished = case.draw.random() < 0.5
        path = case.copy(finished=finished)
        file = draw_file(path, case.draw, json_only)
        place = file.relative_to(path)
        details = f"{place} {damage(file, case.draw)}"
        # A run may have been killed before it wrote its summary.
        seen = _is_seen(place, finished) and (damage is not remove or place.name != "summary.json")
        return Struck(details, seen, permissions=damage is forbid)

    return fault


def _is_seen(place: Path, finished: bool) -> bool:
    """Whether `verify` names damage of a file; a restart writes later metric lines again."""
    return place.name not in UNSEEN and (finished or str(place) != "metrics.jsonl")


def several_files(case: Case) -> Struck:
    """Damage two to five files."""
    finished = case.draw.random() < 0.5
    path = case.copy(finished=finished)
    damages = (flip_bit, truncate, empty, remove, replace_by_entry, write_hostile)
    details, seen = [], False
    for _ in range(case.draw.randint(2, 5)):
        file = draw_file(path, case.draw)
        seen |= _is_seen(file.relative_to(path), finished)
        details.append(f"{file.relative_to(path)} {case.draw.choice(damages)(file, case.draw)}")
    return Struck("; ".join(details), seen)


# ---- Exchanges and renamings


def _saved(path: Path) -> list[Path]:
    return sorted((path / "checkpoints").glob("[0-9]*"))


def rename_checkpoint(case: Case) -> Struck:
    """Give a checkpoint the number of another step, or its own number in another form."""
    path = case.copy(finished=case.draw.random() < 0.5)
    source, kept = case.draw.choice(_saved(path)), frozenset()
    name = case.draw.choice([str(case.draw.randint(1, 99)), f"0{source.name}", "٤", "2４", "best"])
    goal = source.with_name(name)
    if goal.exists():
        goal.rename(goal.with_name("given"))
        kept = frozenset(digests(goal.with_name("given")).values())
    content = frozenset(digests(source).values())
    source.rename(goal)
    seen = name not in ("best", source.name)
    return Struck(f"{source.name} → {name}", seen, kept=kept | content)


def exchange_checkpoints(case: Case) -> Struck:
    """Exchange two checkpoints of a run."""
    path = case.copy(finished=case.draw.random() < 0.5)
    a, b = case.draw.sample(_saved(path), 2)
    kept = frozenset({*digests(a).values(), *digests(b).values()})
    _exchange(a, b)
    return Struck(f"{a.name} ↔ {b.name}", True, kept=kept)


def foreign_checkpoint(case: Case) -> Struck:
    """Put a checkpoint of another run beside those of a run, or in the place of one."""
    path = case.copy(finished=case.draw.random() < 0.5)
    other = case.draw.choice([name for name in ("twin", "other", "wide") if name in case.trained])
    source = case.draw.choice(_saved(case.trained[other].path))
    goal = path / "checkpoints" / case.draw.choice([source.name, source.name, "7"])
    if goal.exists():
        shutil.rmtree(goal)
    shutil.copytree(source, goal)
    kept = frozenset(digests(goal).values())
    return Struck(f"{source.name} of run {other} as {goal.name}", True, kept=kept)


def exchange_files_of_checkpoints(case: Case) -> Struck | None:
    """Exchange one file of two checkpoints, of one run or of two."""
    path = case.copy(finished=case.draw.random() < 0.5)
    a, b = case.draw.sample(_saved(path), 2)
    other = case.draw.choice([name for name in (None, "twin", "other") if name in case.trained])
    if other is not None:
        b = case.copy(other, to="given") / "checkpoints" / a.name
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    names = [x for x in names if (b / x).is_file() and (b / x).read_bytes() != (a / x).read_bytes()]
    if not names:
        return None
    name = case.draw.choice(names)
    _exchange(a / name, b / name)
    return Struck(f"{a.name}/{name} ↔ that of {b.name} of run {other or case.name}", True)


def file_of_another_run(case: Case) -> Struck | None:
    """Copy a record of another run over that of a run."""
    path = case.copy(finished=case.draw.random() < 0.5)
    other = case.draw.choice([name for name in ("twin", "other", "wide") if name in case.trained])
    name = case.draw.choice(RECORDS)
    source, goal = case.trained[other].path / name, path / name
    same = goal.is_file() and goal.read_bytes() == source.read_bytes()
    if same:
        return None
    shutil.copy(source, goal)
    # The starts of a twin have its config; only its checkpoints tell that they are of another run.
    return Struck(f"{name} of run {other}", seen=name != "summary.json" or other != "twin")


def exchange_runs(case: Case) -> Struck:
    """Exchange the folders of two runs."""
    path = case.copy(finished=case.draw.random() < 0.5)
    other = case.draw.choice([name for name in ("other", "wide") if name in case.trained])
    given = case.copy(other, to="given")
    kept = frozenset({*digests(path).values(), *digests(given).values()})
    _exchange(path, given)
    return Struck(f"run {other} in its place", holds=other, kept=kept)


def _exchange(a: Path, b: Path) -> None:
    between = a.with_name(f"{a.name}.between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


NAMES = ("024", "٤٨", "2４", "best", "a\nerror: done\x1b[31m", os.fsdecode(b"\xff\xe9"), "-rf", "~")
NAMES += ("damaged", "9.writing", "3.abcd.deleting", "9.abcd.writing", "x" * 200)


def strange_entry(case: Case) -> Struck:
    """Put something else among the files or the checkpoints of a run."""
    path = case.copy(finished=case.draw.random() < 0.5)
    place = case.draw.choice([path, path / "checkpoints", path / "checkpoints"])
    goal = place / case.draw.choice([*NAMES, ".writing-x", "tensorboard", "pictures", "profile"])
    kind = case.draw.choice(["a file", *ENTRIES])
    text = f"notes of {case.draw.random()}"
    goal.write_text(text) if kind == "a file" else ENTRIES[kind](goal)
    return Struck(f"{kind} named {goal.relative_to(path)}")


# ---- Sealed again


def forge(case: Case) -> Struck:
    """Change a result in a record, and seal the record again."""
    path = case.copy()
    file = path / "summary.json"
    record = json_files.read_record(file)
    names = [name for name in record if name.startswith(("test_", "train_"))]
    name = case.draw.choice([*names, "seed", "step"])
    values = (5.0, -1.0, float("nan"), 0, "best", None)
    record[name] = case.draw.choice([x for x in values if repr(x) != repr(record[name])])
    json_files.write_record(file, record)
    return Struck(f"summary.json {name} is {record[name]!r}", seen=True)


FAULTS: dict[str, Callable[[Case], Struck | None]] = {
    "flipped bit": _damaged(flip_bit),
    "truncated file": _damaged(truncate),
    "emptied file": _damaged(empty),
    "removed file": _damaged(remove),
    "folder, pipe, socket or link in the place of a file": _damaged(replace_by_entry),
    "other content: nested, no JSON, a pickle": _damaged(write_hostile),
    "more bytes at the end of a file": _damaged(append),
    "edited value in well-formed JSON": _damaged(edit, json_only=True),
    "file or folder without permissions": _damaged(forbid),
    "two to five damaged files": several_files,
    "checkpoint with another name": rename_checkpoint,
    "two checkpoints exchanged": exchange_checkpoints,
    "checkpoint of another run": foreign_checkpoint,
    "files of two checkpoints exchanged": exchange_files_of_checkpoints,
    "record of another run": file_of_another_run,
    "folders of two runs exchanged": exchange_runs,
    "strange names among the files of a run": strange_entry,
    "result that is edited and sealed again": forge,
}
