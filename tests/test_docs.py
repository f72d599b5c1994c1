"""The documents: every command runs, every link, path and name exists.

Commands of one page run in one folder, one after the other, with training cut to two steps.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cv_jax
from cv_jax import __main__ as commands
from cv_jax import augment, models
from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.errors import ExitCode
from cv_jax.evaluation.kinds import KINDS
from cv_jax.inspect.look import ANALYSES
from cv_jax.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

PAGES = {
    str(file.relative_to(ROOT)): file.read_text()
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
MORE = {name: (ROOT / name).read_text() for name in ("CHANGELOG.md", "SECURITY.md")}
ALL_PAGES = {**PAGES, **MORE}
NOT_HERE = (":cifar10", ":imagenet2012")  # datasets that the tests do not have


def commands_of(text):
    """The commands of the `sh` blocks, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [(page, words) for page, text in PAGES.items() for words in commands_of(text)]
PYTHON = [(page, words) for page, words in COMMANDS if words[0] == "python"]


def is_run(words):
    return not any(name in word for word in words for name in (*NOT_HERE, "hf-hub:"))


def case(words):
    slow = any("sweep" in w or "photos" in w for w in words)
    return pytest.param(words, id=" ".join(words), marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`folders(page)`: where the commands of a page run; with a folder of images."""
    made = {}

    def folder(page):
        if page not in made:
            made[page] = tmp_path_factory.mktemp("page")
            draw = np.random.default_rng(0)
            for path in ("train/cat", "train/dog", "val/cat", "val/dog"):
                images = made[page] / "photos" / path
                images.mkdir(parents=True)
                for i in range(8):
                    pixels = draw.integers(0, 256, (40, 50, 3), np.uint8)
                    Image.fromarray(pixels).save(images / f"{i}.jpg")
        return made[page]

    return folder


def shortened(words, data_dir):
    """The words of a command with training cut to two steps and without large networks."""
    if words[2:] == ["cv_jax", "models"]:  # counts every network, as test_published.py does
        return [*words, "vit_t*"]
    if words[1] != "launch.py":
        return words
    words = ["python", str(ROOT / "launch.py"), *words[2:]]
    words = [w.replace("configs/", f"{ROOT}/configs/") for w in words]
    if "experiments" in " ".join(words):  # dozens of trials
        return [*words, "--dry_run"]
    words += ["--config.total_steps=2", "--config.batch_size=8", "--config.model.dtype=float32"]
    words += ["--config.schedule.warmup_epochs=none"]
    if "photos" in " ".join(words):  # residual networks at 224 pixels
        words += ["--config.model.widths=8,8,8,8", "--config.model.stage_sizes=1,1,1,1"]
        words += ["--config.model.stem_width=8", "--config.eval.batch_size=8"]
    else:
        words += [f"--config.data.dir={data_dir}", "--config.eval.batch_size=64"]
    if "/vit_" in " ".join(words) or "/mae" in " ".join(words):
        words += ["--config.model.depth=2"]
    if "vit_b16" in " ".join(words):  # 86 million parameters, to be saved as well
        words += ["--config.model.width=96"]
    return words


RUN = {page: [words for p, words in PYTHON if p == page and is_run(words)] for page in PAGES}


@pytest.mark.parametrize("words", [case(words) for words in RUN["README.md"]])
def test_a_command_of_the_readme_runs(words, folders, data_dir):
    process = subprocess.run(
        [sys.executable, *shortened(words, data_dir)[1:]],
        capture_output=True,
        text=True,
        cwd=folders("README.md"),
        timeout=600,
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and RUN[page]])
def test_the_commands_of_a_page_run(page, folders, data_dir):
    """All in one process: the imports take longer than most commands."""
    folder = folders(page)
    commands = [shortened(words, data_dir) for words in RUN[page]]
    commands = [(str(folder), ["launch", *w[2:]] if w[1] != "-m" else w[3:]) for w in commands]
    (folder / "commands.json").write_text(json.dumps(commands))
    subprocess.run(
        [sys.executable, ROOT / "tests" / "one_process.py", "commands.json", "results.json"],
        cwd=folder,
        timeout=1800,
        # Programs run for two steps: compiling takes longer.
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        check=True,
    )
    results = json.loads((folder / "results.json").read_text())
    for words, (code, out, err, _) in zip(RUN[page], results, strict=True):
        assert code == 0, (words, err, code)
        assert out.strip(), words


def test_commands_that_are_not_run_exist():
    """Targets of make, extras of pip, and configs of commands that need a cluster or data."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page, words in COMMANDS:
        program, *rest = words
        if program == "make":
            assert rest[0] in targets, (page, words)
        elif program == "pip":
            assert rest[0] == "install", (page, words)
            for extra in re.findall(r"^\.\[(\w+)\]$", "\n".join(rest), re.MULTILINE):
                assert extra in project["optional-dependencies"], (page, words)
        elif program in ("srun", "mpirun") or not is_run(words):
            check_python(words[words.index("python") :])
        else:
            assert program in ("python", "git", "pre-commit"), (page, words)
    assert len(PYTHON) > 30


def check_python(words):
    """Check flags and config of a command without running it."""
    if words[1] == "launch.py":
        flags, overrides = launch.parse_arguments(words[2:])
        configs.load(str(ROOT / flags.config), overrides)
    else:
        assert words[1:3] == ["-m", "cv_jax"]
        assert words[3] in commands.COMMANDS


def test_the_gallery_has_its_commands():
    """The commands parse, and every picture is one of their findings and is shown."""
    script = (ROOT / "docs" / "look" / "draw.sh").read_text()
    name, value = re.search(r"^(\w+)=(\S+)$", script, re.MULTILINE).groups()
    lines = script.replace(f"${name}", value).splitlines()
    commands_ = [shlex.split(line) for line in lines if line.startswith("python")]
    looked = {}
    for words in commands_:
        check_python(words)
        if words[1] == "-m":
            what = words[5 : words.index("--count")]
            assert set(what) <= set(ANALYSES)
            looked.setdefault(words[4].removeprefix("runs/"), []).extend(what)
    pictures = {file.name for file in (ROOT / "docs" / "look").glob("*.png")}
    assert pictures == set(re.findall(r"\(look/(\w+\.png)\)", PAGES["docs/look.md"]))
    assert {picture.partition("_")[0] for picture in pictures} == set(looked)
    assert {what for names in looked.values() for what in names} == set(ANALYSES)


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """The anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(ALL_PAGES[page])):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
    """Also those inside of commands and code."""
    roots = r"cv_jax|configs|tests|docs|benchmarks|\.ci|\.github"
    for path in re.findall(rf"(?<![\w/.-])((?:{roots})/[\w./-]*\w)", PAGES[page]):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"(?<![\w/.…-])([A-Za-z]\w+\.(?:toml|cff))", PAGES[page]):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page):
    for name in set(re.findall(r"`(cv_jax(?:\.\w+)+)`", PAGES[page])):
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[end:]:
            found = getattr(found, part)


def test_entry_points_exist():
    lines = re.findall(r"^- `([\w.]+)`: (.*)$", cv_jax.__doc__, re.MULTILINE)
    assert len(lines) > 5
    for module, functions in lines:
        for name in re.findall(r"`(\w+)\(", functions):
            assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("page", PAGES)
def test_config_fields_exist(page):
    """Fields in inline code: `config.NAME`, `--config.NAME=…`, and `group.name`."""
    text = without_code(PAGES[page])
    groups = {name.partition(".")[0] for name in FIELDS if "." in name}
    model_fields = {f"model.{field}" for name in models.MODELS for field in models.fields(name)}
    known = {*FIELDS, *model_fields, "model.name"}
    for code in re.findall(r"`([^`]+)`", text):
        found = re.findall(r"(?<![\w.])config\.([a-z_]+(?:\.[a-z_0-9]+)?)", code)
        found += re.findall(rf"^((?:{'|'.join(groups)})\.[a-z_0-9]+)(?:=.*)?$", code)
        for name in found:
            is_module = (ROOT / "cv_jax" / f"{name.replace('.', '/')}.py").exists()
            if not is_module and name not in ("load", "default", "field", "json"):
                # Also the start of a name, such as `every_` for every unit.
                assert any(field.startswith(name) for field in known), (code, name)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("augmentation", [name for stage in augment.STAGES.values() for name in stage]),
        ("training", FIELDS["optim.name"].allowed),
        ("training", FIELDS["schedule.name"].allowed),
        ("training", FIELDS["loss.name"].allowed),
        ("evaluation", list(KINDS)),
        ("models", list(TASKS)),
    ],
)
def test_every_name_is_documented(page, names):
    documented = re.findall(r"`(\w+)(?:\(.*?\))?`", PAGES[f"docs/{page}.md"])
    assert set(names) <= set(documented)


def test_every_exit_code_is_documented():
    rows = re.findall(r"^\| (\d+) \|", PAGES["docs/training.md"], re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(int(code) for code in ExitCode)


def test_every_page_is_linked_from_the_readme():
    assert len(PAGES["README.md"].splitlines()) <= 200
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in PAGES["README.md"]


def test_the_line_of_the_readme_is_the_recorded_one():
    folder = ROOT / "benchmarks" / "results" / "experiments" / "lineage"

    def rows(text, columns):
        lines = [[cell.strip(" `") for cell in line.split("|")] for line in text.splitlines()]
        return [[row[i] for i in columns] for row in lines if len(row) > 5 and row[2].isdigit()]

    recorded = rows((folder / "report.md").read_text(), (1, 2, 4, 6))
    assert len(recorded) == 10
    assert rows(PAGES["README.md"], (1, 2, 3, 4)) == recorded


def test_the_drawing_of_imports_is_up_to_date():
    command = [sys.executable, str(ROOT / "docs" / "draw_imports.py"), "--check"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
