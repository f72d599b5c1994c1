"""`python -m cv_jax COMMAND …`: all commands except training, which is `launch.py`."""

import importlib
import os
import sys

from cv_jax.errors import InputError, RunError, one_line

# Each name is a module of cv_jax.commands with the function `main(arguments) -> exit code`.
COMMANDS = {
    "models": "list models with parameters and multiply-adds",
    "report": "print and write tables and figures of a sweep",
    "predict": "predict the classes of image files",
    "receptive-field": "print the receptive field of each layer of a model",
    "templates": "draw the templates of a linear classifier beside the class averages",
    "convert": "convert weights from and to torchvision, timm and others",
    "prepare": "build a TFDS dataset, or re-encode a dataset for speed",
    "augment": "draw the effect of an augmentation string",
    "verify": "check the checkpoints of a run, or prepared records, by their digests",
}


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code (2 for invalid input)."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: python -m cv_jax COMMAND [arguments]\n")
        for name, summary in COMMANDS.items():
            print(f"  {name:17}{summary}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"cv_jax.commands.{name.replace('-', '_')}")
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
