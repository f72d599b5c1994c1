"""Draws the imports between the parts of cv_jax: `python docs/draw_imports.py [--check]`.

Writes `docs/imports.svg` and the table between the `imports` marks of `docs/architecture.md`. The
layers come from the contract in `pyproject.toml`, the arrows from the code. The drawing leaves out
an arrow if other arrows lead to the same part; the table has every import. `--check` writes nothing
and fails if a file is out of date. An import that does not point downwards is an error.
"""

import argparse
import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "cv_jax"
DRAWING, PAGE = ROOT / "docs" / "imports.svg", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- imports: begin -->", "<!-- imports: end -->"

WIDTH, ROW, COLUMN, BOX = 720, 62, 130, (124, 30)  # pixels
# Column of each box, for arrows that do not cross boxes; a part that is not listed is put aside.
COLUMNS = {
    **dict.fromkeys(("__main__", "commands", "course", "report"), 3.2),
    **dict.fromkeys(("sweep", "training", "interop", "run", "evaluation"), 2.3),
    **dict.fromkeys(("data", "progress", "devices", "errors"), 2.3),
    "launch": 1.2,
    "inspect": 4.3,
    "optim": 0.3,
    "augment": 1.28,
    "tasks": 4.0,
    "config": 0.3,
    "models": 3.7,
    "random_streams": 1.2,
}


def layers() -> list[list[str]]:
    """The parts of the package by layer, from top to bottom; siblings of a layer are independent.

    `launch.py` stands beside `__main__`.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [c for c in settings["contracts"] if c["type"] == "layers"]
    rows = [[part.strip() for part in row.split("|")] for row in contract["layers"]]
    return [["launch", *rows[0]], *rows[1:]]


def imports() -> dict[str, set[str]]:
    """Part → the other parts that its modules import, at the top or inside functions.

    A string that is the name of a module counts as well: modules can be imported by name.
    """
    files = {ROOT / "launch.py": "launch"}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = file.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]
        if name != "__init__":
            files[file] = name
    found: dict[str, set[str]] = {part: set() for part in files.values()}
    for file, part in files.items():
        for name in _names(ast.parse(file.read_text())):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == PACKAGE and other in found and other != part:
                found[part].add(other)
    return found


def _names(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            path = ROOT.joinpath(*node.value.split(".")) if node.value[:1].isalpha() else ROOT
            if node.value.startswith(f"{PACKAGE}.") and path.with_suffix(".py").is_file():
                yield node.value


def upward(edges: dict[str, set[str]], rows: list[list[str]]) -> list[str]:
    """Imports that do not point to a lower layer, and parts that are in no layer."""
    level = {part: i for i, row in enumerate(rows) for part in row}
    wrong = [f"{part} is in no layer" for part in sorted(edges) if part not in level]
    for part in sorted(edges.keys() & level.keys()):
        wrong += [
            f"{part} imports {other}, which is not below it"
            for other in sorted(edges[part] & level.keys())
            if level[other] <= level[part]
        ]
    return wrong


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The edges of which no other path leads to the same part."""

    def reached(part):
        below = set()
        for other in edges[part]:
            below |= {other} | reached(other)
        return below

    return {
        part: {o for o in others if not any(o in reached(x) for x in others - {o})}
        for part, others in edges.items()
    }


def draw(edges: dict[str, set[str]], rows: list[list[str]]) -> str:
    """The SVG."""
    width, height = BOX
    place = {}
    for i, row in enumerate(rows):
        for k, part in enumerate(row):
            column = COLUMNS.get(part, 4.6 - 0.2 * k)
            place[part] = (round(40 + column * COLUMN), 30 + i * ROW)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{ROW * len(rows)}" '
        f'viewBox="0 0 {WIDTH} {ROW * len(rows)}" font-family="sans-serif" font-size="14">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
    ]
    for part in edges:
        x, y = place[part]
        for other in sorted(edges[part]):
            u, v = place[other]
            bottom, top = y + height // 2, v - height // 2 - 1
            side = 1 if u > x else -1
            if abs(u - x) < width // 2:
                path = f"M{x},{bottom} L{u},{top}"
            elif v - y == ROW:
                lean = side * width // 4
                path = f"M{x + lean},{bottom} L{u - lean},{top}"
            else:  # out of the side, then down
                start, end = x + side * width // 2, u - side * width // 8
                path = f"M{start},{y} Q{end},{y} {end},{top}"
            lines.append(
                f'<path d="{path}" fill="none" '
                'stroke="#555" stroke-width="1.3" marker-end="url(#head)"/>'
            )
    for part, (x, y) in place.items():
        text = "launch.py" if part == "launch" else part
        lines.append(
            f'<rect x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" '
            'rx="5" fill="#e8f0fb" stroke="#335"/>'
        )
        lines.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle">{text}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def table(edges: dict[str, set[str]], rows: list[list[str]]) -> str:
    """Every import between two parts, as a Markdown table in the order of the layers."""
    order = [part for row in rows for part in row]
    lines = ["| part | imports |", "| --- | --- |"]
    for part in order:
        names = [f"`{other}`" for other in order if other in edges[part]]
        lines.append(f"| `{part}` | {' '.join(names) or '–'} |")
    return "\n".join(lines)


def main() -> int:
    """Write the files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    options = parser.parse_args()
    edges, rows = imports(), layers()
    if wrong := upward(edges, rows):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    page = f"{before}{BEGIN}\n{table(edges, rows)}\n{END}{after}"
    for file, text in ((DRAWING, draw(reduced(edges), rows)), (PAGE, page)):
        if file.is_file() and file.read_text() == text:
            continue
        if options.check:
            print(f"{file.relative_to(ROOT)} is out of date: python docs/draw_imports.py")
            return 1
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
