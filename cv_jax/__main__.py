"""`python -m cv_jax COMMAND …`: everything but training, which is `launch.py`."""

import importlib
import os
import sys

from cv_jax.errors import InputError, RunError, one_line

# Each name is a module of cv_jax.commands with `main(arguments) -> exit code`.
COMMANDS = {
    "models": "list the architectures with parameters and multiply-adds",
    "report": "tables and figures of a sweep",
    "predict": "what a trained classifier says of images in files",
    "receptive-field": "how much of the image each layer of a net can see",
    "templates": "draw what a linear classifier has learned, beside the class averages",
    "convert": "weights from and to torchvision, timm and others",
    "prepare": "build a TFDS dataset, or re-encode one for speed",
    "augment": "draw what an augmentation string does to images",
    "verify": "check the checkpoints of a run, or prepared records, against their digests",
}


def main(arguments: list[str]) -> int:
    """Runs one command; returns its exit code (2 for a mistake in the input)."""
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
        # The reader (head, less) has gone; let the interpreter's own flush at exit find nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
