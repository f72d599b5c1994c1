"""Run commands on paths that no command expects, in one process: `hostile.py FOLDER CASES`.

CASES is a JSON file with a list of [words, target]. The first word is "launch" or a command of
`python -m cv_jax`; in the others `{}` becomes the path of the target, and NEW that of a file or
folder to write. FOLDER/results.json gets the list of [exit code or traceback, output, errors,
seconds].
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60
MEMORY = 8 * 2**30
SUFFIXES = ("png", "safetensors", "npz", "pth", "py")
PR_CAPBSET_DROP, CAPABILITIES = 24, (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH

TEXT = "a\nb\x1b[31m\x07\u202ec"  # line break, colour, bell, right-to-left


def bind_permissions():
    """Start this program again such that permissions of files bind its user, root too."""
    if os.geteuid() == 0 and "BOUND" not in os.environ:
        for capability in CAPABILITIES:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability)
        os.environ["BOUND"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def targets(folder):
    """Make the targets in a new folder; return name → path."""
    folder.mkdir(parents=True)
    found = {name: folder / name for name in ("missing", "empty", "locked", "read-only", "file")}
    for name in ("empty", "locked", "read-only"):
        found[name].mkdir()
    (found["locked"] / "inside").mkdir()
    found["locked"].chmod(0)
    found["read-only"].chmod(0o555)
    found["file"].write_text("text\n")
    found["unreadable"] = folder / "unreadable"
    found["unreadable"].touch(0)
    found["inside locked"] = found["locked"] / "inside"
    found["inside a file"] = found["file"] / "inside"
    found["pipe"] = folder / "pipe"
    os.mkfifo(found["pipe"])
    found["socket"] = folder / "socket"
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is at most 108 bytes long
    socket.socket(socket.AF_UNIX).bind("socket")
    os.chdir(here)
    found["loop"] = folder / "loop"
    found["loop"].symlink_to("loop")
    found["dangling"] = folder / "dangling"
    found["dangling"].symlink_to("nowhere")
    found["long"] = folder / ("x" * 300)
    found["control missing"] = folder / f"missing {TEXT}"
    found["control file"] = folder / f"file {TEXT}"
    found["control file"].write_text("text\n")
    found["control empty"] = folder / f"empty {TEXT}"
    found["control empty"].mkdir()
    found["bytes"] = folder / os.fsdecode(b"latin-\xe9")
    for name in ("null", "full", "zero"):
        found[f"/dev/{name}"] = Path("/dev", name)
        for suffix in SUFFIXES:
            found[f"{name}.{suffix}"] = folder / f"{name}.{suffix}"
            found[f"{name}.{suffix}"].symlink_to(f"/dev/{name}")
    for suffix in SUFFIXES:
        for name in ("pipe", "text", "unreadable", "empty"):
            found[f"{name}.{suffix}"] = folder / f"{name}.{suffix}"
        os.mkfifo(found[f"pipe.{suffix}"])
        found[f"text.{suffix}"].write_text("text\n")
        found[f"unreadable.{suffix}"].touch(0)
        found[f"empty.{suffix}"].touch()
    return {**{name: str(path) for name, path in found.items()}, "empty text": ""}


def run(words):
    """Run one command in this process; return its exit code, or a traceback."""
    import launch
    from cv_jax.__main__ import main

    def overtime(number, frame):
        raise SystemError("overtime")

    signal.signal(signal.SIGALRM, overtime)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return launch.run(words[1:]) if words[0] == "launch" else main(words)
    except SystemExit as error:
        return error.code
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def captured(folder, words):
    """Run one command; return its result, what it printed, and its seconds."""
    kept = [os.dup(1), os.dup(2)]
    files = [(folder / name).open("w+b") for name in ("out", "err")]
    started = time.monotonic()
    try:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        code = run(words)
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode(errors="backslashreplace"))
        file.close()
    return code, *texts, round(time.monotonic() - started, 2)


if __name__ == "__main__":
    bind_permissions()
    sys.path.insert(0, str(ROOT))
    from cv_jax import output

    output.guard()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    folder = Path(sys.argv[1])
    results = []
    for i, (words, target) in enumerate(json.loads(Path(sys.argv[2]).read_text())):
        own = folder / str(i)
        path = targets(own)[target]
        words = [word.replace("{}", path).replace("NEW", str(own / "new")) for word in words]
        os.environ["COLUMNS"] = "40"
        results.append(captured(folder, words))
    (folder / "results.json").write_text(json.dumps(results))
