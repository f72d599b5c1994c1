"""`python -m cv_jax models`: the architectures with year, input, parameters and multiply-adds."""

import argparse
import difflib
import json
import shutil
import sys

from cv_jax import models
from cv_jax.errors import InputError


def main(arguments: list[str]) -> int:
    """Prints one line for each model that matches, as soon as it is counted.

    Raises:
      InputError: no model matches the pattern.
    """
    parser = argparse.ArgumentParser(prog="python -m cv_jax models", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help='a name, or "vit_*" (default: all)')
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    options = parser.parse_args(arguments)

    names = models.list_models(options.pattern)
    if not names:
        near = difflib.get_close_matches(options.pattern, models.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else 'all are listed by "*"'
        raise InputError(f"no model matches {options.pattern!r}; {hint}")

    cards = (models.card(name) for name in names)
    if options.json:
        print("[\n" + ",\n".join(json.dumps(card._asdict()) for card in cards) + "\n]")
    else:
        _print_table(names, cards)
    return 0


def _print_table(names, cards) -> None:
    name_width = max(len("name"), *map(len, names))
    head = f"{'name':{name_width}}  year  {'input':>11}  {'parameters':>11}  {'mult-adds':>9}  "
    print(head + "paper")
    # On a terminal a line stays a line; a file or a pipe gets the whole reference.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for card in cards:
        shapes = " ".join("x".join(map(str, shape)) for shape in card.inputs)
        line = (
            f"{card.name:{name_width}}  {card.year}  {shapes:>11}  {card.parameters:>11,}  "
            f"{_short(card.multiply_adds):>9}  {card.paper}"
        )
        print(line[:columns], flush=True)


def _short(count: int) -> str:
    """Four digits with a unit: 4.089 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.4g} {unit}"
    return f"{count} "
