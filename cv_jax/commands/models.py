"""`python -m cv_jax models`: lists models with year, input, parameters and multiply-adds."""

import json
import shutil
import sys

from cv_jax import models
from cv_jax.errors import InputError, Parser, did_you_mean


def main(arguments: list[str]) -> int:
    """Print one line per matching model, each as soon as it is counted.

    Raises:
      InputError: no model matches the pattern.
    """
    parser = Parser(prog="python -m cv_jax models", description=__doc__)
    parser.add_argument(
        "pattern", nargs="?", default="*", help='name or pattern such as "vit_*" (default: all)'
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    options = parser.parse_args(arguments)

    names = models.list_models(options.pattern)
    if not names:
        known = models.list_models()
        hint = did_you_mean(options.pattern, known, count=3) or '; "*" lists all'
        raise InputError(f"no model matches {options.pattern!r}{hint}")

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
    # On a terminal the paper is cut at its width, the numbers never.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    columns = columns and max(columns, len(head))
    for card in cards:
        shapes = " ".join("x".join(map(str, shape)) for shape in card.inputs)
        line = (
            f"{card.name:{name_width}}  {card.year}  {shapes:>11}  {card.parameters:>11,}  "
            f"{_short(card.multiply_adds):>9}  {card.paper}"
        )
        print(line[:columns], flush=True)


def _short(count: int) -> str:
    """Format with four digits and a unit: 4.089 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.4g} {unit}"
    return f"{count} "
