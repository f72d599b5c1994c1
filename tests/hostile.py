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
import socket
import sys
from pathlib import Path

from one_process import captured

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
        results.append(captured(words, SECONDS))
    (folder / "results.json").write_text(json.dumps(results))
