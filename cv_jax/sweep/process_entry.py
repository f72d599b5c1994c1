"""What a trial's process does before it becomes the trial: `child.py PARENT CORES COMMAND…`.

It keeps to its cores before any library counts them, and asks the kernel (Linux) for a SIGTERM if
the process that started it dies, so that nothing trains on without anybody who waits for it; a
trial answers SIGTERM by saving. Other warnings, which Slurm sends to every process of a job, would
kill it: they are for the process that started it. A program of its own, for code between fork and
exec would run in a copy of a process with many threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    parent, cores, *command = sys.argv[1:]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before the kernel was asked
            sys.exit(f"process {parent}, which started this one, is gone")
    os.execvp(command[0], command)
