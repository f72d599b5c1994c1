"""Entry of a trial's process: `process_entry.py PARENT CORES COMMAND…`.

It sets the process's cores before any library counts them, and asks the Linux kernel for a SIGTERM
when the parent dies, so that no orphan continues to train; a trial saves at SIGTERM. It ignores
SIGUSR1 and SIGUSR2, which Slurm sends to every process of a job and which only the parent handles.

This is a separate program because code between fork and exec would run in a copy of a process with
many threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def wrapped(command: list[str], cores: Iterable[int] = ()) -> list[str]:
    """Return the command that runs `command` through this program, as a child of this process.

    Args:
      command: words of the command.
      cores: the cores that it may use; empty for all.
    """
    program = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    return [*program, ",".join(map(str, cores)), *command]


if __name__ == "__main__":
    parent, cores, *command = sys.argv[1:]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # the parent died before the call of prctl
            sys.exit(f"the parent process {parent} has ended")
    os.execvp(command[0], command)
