"""Run commands one after the other in this process, which imports and compiles once for all.

    python tests/one_process.py COMMANDS RESULTS

COMMANDS is a JSON file with a list of [folder, words]; a command runs in its folder. The first word
is "launch" or a command of `python -m cv_jax`. RESULTS gets the list of [exit code or traceback,
output, errors, seconds].
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(words, seconds):
    """Run one command for at most some seconds; return its exit code, or a traceback."""
    import launch
    from cv_jax.__main__ import main

    def overtime(number, frame):
        raise SystemError("overtime")

    signal.signal(signal.SIGALRM, overtime)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return launch.run(words[1:]) if words[0] == "launch" else main(words)
    except SystemExit as error:
        return error.code
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def captured(words, seconds):
    """Run one command; return its exit code, what it printed, and its seconds."""
    kept = [os.dup(1), os.dup(2)]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            for number, file in enumerate((out, err), 1):
                os.dup2(file.fileno(), number)
            code = run(words, seconds)
        finally:
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    return code, *texts, round(time.monotonic() - started, 2)


def main(commands, results):
    """Run the commands of a file, and write their results."""
    found, results = [], Path(results).absolute()
    for folder, words in json.loads(Path(commands).read_text()):
        os.chdir(folder)
        found.append(captured(words, seconds=600))
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from cv_jax import output

    output.guard()
    main(*sys.argv[1:])
