"""`python -m cv_jax COMMAND …`: all commands except training, which is `launch.py`."""

import importlib
import os
import sys

from cv_jax.errors import InputError, RunError, one_line

# Name → module with the function `main(arguments) -> exit code`, and a summary.
COMMANDS: dict[str, tuple[str, str]] = {
    "models": ("cv_jax.commands.models", "list models with parameters and multiply-adds"),
    "report": ("cv_jax.commands.report", "print and write tables and figures of a sweep"),
    "predict": ("cv_jax.commands.predict", "predict the classes of image files"),
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
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: python -m cv_jax COMMAND [arguments]\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:17}{summary}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    try:
        return module.main(rest)
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) closed the pipe; prevent an error in Python's final flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
