"""`python -m cv_jax COMMAND …`: all commands except training, which is `launch.py`."""

import gc

from cv_jax import signals

if __name__ == "__main__":
    gc.disable()  # see `start.after_imports`
    signals.watch()  # before the imports below
elif __name__ == "__mp_main__":  # a process that encodes images
    from cv_jax.data import children

    children.end_with_the_parent()

import importlib
import shutil
import sys
import textwrap

from cv_jax import output
from cv_jax.devices import start
from cv_jax.errors import ExitCode, InputError, did_you_mean, exit_code, one_line

# Name → module with the function `main(arguments) -> exit code`, and a summary.
COMMANDS: dict[str, tuple[str, str]] = {
    "models": ("cv_jax.commands.models", "list models with parameters and multiply-adds"),
    "report": (
        "cv_jax.commands.report",
        "write the page of a run, of several runs or of a sweep, with its tables",
    ),
    "course": (
        "cv_jax.commands.course",
        "test the claims of the line of classifiers by runs, and write them as a page",
    ),
    "predict": ("cv_jax.commands.predict", "predict the classes of image files"),
    "look": ("cv_jax.commands.look", "show what a trained network has learnt"),
    "features": ("cv_jax.commands.features", "write features of images or of a split to a file"),
    "receptive-field": (
        "cv_jax.commands.receptive_field",
        "print the receptive field of each layer of a model",
    ),
    "templates": (
        "cv_jax.commands.templates",
        "draw the templates of a linear classifier beside the class averages",
    ),
    "convert": (
        "cv_jax.commands.convert",
        "convert weights from and to torchvision, timm and others",
    ),
    "prepare": (
        "cv_jax.commands.prepare",
        "build a TFDS dataset, or re-encode a dataset for speed",
    ),
    "augment": ("cv_jax.commands.augment", "draw the effect of an augmentation string"),
    "verify": (
        "cv_jax.commands.verify",
        "check the checkpoints of a run, or prepared records, by their digests",
    ),
}


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code (2 for invalid input)."""
    try:
        return _run(*arguments)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return code


def _run(name: str = "", *rest: str) -> int:
    if name in ("", "-h", "--help", "help"):
        print("usage: python -m cv_jax COMMAND [arguments]\n")
        for command, (_, summary) in COMMANDS.items():
            width = shutil.get_terminal_size((100, 24)).columns
            print(textwrap.fill(f"  {command:17}{summary}", width, subsequent_indent=" " * 19))
        return ExitCode.DONE if name else ExitCode.MISTAKE
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise InputError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}{hint}")
    start.load_jax()
    try:
        command = importlib.import_module(COMMANDS[name][0])
        start.after_imports()
        return command.main(list(rest))
    except Exception as error:
        if exit_code(error) is None:
            start.check_devices()  # raises an InputError if no program can run here
        raise


if __name__ == "__main__":
    output.guard()
    sys.exit(main(sys.argv[1:]))
