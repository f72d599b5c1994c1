"""Points of a sweep: generators, products, names, conflicts."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cv_jax import config as configs
from cv_jax.errors import InputError
from cv_jax.sweep import points

CONFIG = """
from cv_jax import config

def get_config(arg=""):
    dataset, options = config.parse_argument(arg, model="mlp", width=8)
    c = config.default(dataset, options["model"])
    c.model.widths = (options["width"],)
    return c
"""


@pytest.fixture
def written(tmp_path):
    """`written(text)` writes a config file with these generators and returns its path."""

    def write(text):
        path = tmp_path / "small.py"
        path.write_text(CONFIG + text)
        return str(path)

    return write


RATES = "def sweep_rate():\n    for r in (0.1, 1e-5):\n        yield {'optim.learning_rate': r}\n"
WIDTHS = "def sweep_width():\n    for w in (8, 16, 32):\n        yield {'width': w}\n"
BASE = "def sweep():\n    yield {}\n    yield {'batch_size': 64}\n"


def test_a_product_has_every_combination_once_and_the_last_varies_fastest(written):
    sweep = points.read(written(RATES + WIDTHS), {}, "width,rate", seeds=2)
    expected = [
        ({"width": w}, {"optim.learning_rate": r, "seed": s})
        for w, r, s in itertools.product((8, 16, 32), (0.1, 1e-5), (0, 1))
    ]
    assert [(p.arguments, p.overrides) for p in sweep.points] == expected
    assert len({p.name for p in sweep.points}) == 12
    assert sweep.points[0].name == "width=8,optim.learning_rate=0.1,seed=0"


def test_the_default_is_sweep_or_the_only_generator(written):
    names = [p.name for p in points.read(written(BASE + RATES), {}).points]
    assert names == ["default", "batch_size=64"]
    assert len(points.read(written(WIDTHS), {}).points) == 3
    with pytest.raises(InputError, match="choose with --sweep=NAME.*: rate, width"):
        points.read(written(RATES + WIDTHS), {})


def test_a_generator_may_take_the_argument(written):
    text = "def sweep(arg):\n    yield {'width': len(arg)}\n"
    (point,) = points.read(written(text) + ":digits", {}).points
    assert point.arguments == {"width": 6}


def test_the_plain_command_of_a_point_sets_its_values(written):
    text = (
        "def sweep():\n    yield {'dataset': 'digits', 'width': 24, 'seed': 7,"
        " 'optim.rules': ['a,b: decay=0', 'c: lr=2'], 'ema.warmup': True, 'ema.decay': None,"
        " 'optim.learning_rate': 1/3, 'augment': 'flip|mixup(0.2)', 'total_steps': 5}\n"
    )
    sweep = points.read(written(text), {"batch_size": "32"}, "")
    (point,) = sweep.points
    reference = sweep.reference(point)
    assert reference.endswith("small.py:digits,width=24")
    config = configs.load(reference, sweep.texts(point))
    flat = configs.flatten(config)
    for name, value in point.overrides.items():
        assert flat[name] == value
    assert (flat["batch_size"], flat["model.widths"]) == (32, (24,))
    command = sweep.command(point, "there")
    assert command[:2] == ["--config", reference]
    assert command[-2:] == ["--workdir", "there"]
    assert "--config.augment=flip|mixup(0.2)" in command


@pytest.mark.parametrize(
    ("text", "names", "overrides", "message"),
    [
        ("", "", {}, "defines no sweep"),
        (RATES, "depth", {}, "has no sweep 'depth'; allowed: rate"),
        (BASE, "depth", {}, "it defines no sweep_<name>"),
        (RATES, "rate,rate", {}, "combined with itself"),
        (RATES, "rate,", {}, "has no sweep ''"),
        (RATES, "", {"optim.learning_rate": "1"}, "learning_rate: the sweep sets optim"),
        ("def sweep():\n    yield {'total_steps': 3}\n", "", {"total_epochs": "2"}, "set it once"),
        (RATES + RATES.replace("rate(", "again("), "rate,again", {}, "two of the combined"),
        ("def sweep():\n    yield {'seed': 1}\n    yield {'seed': 1}\n", "", {}, "seed=1 twice"),
        ("def sweep():\n    return ()\n", "", {}, "has no points"),
        ("def sweep():\n    yield 3\n", "", {}, "3 is not a dict"),
        ("def sweep():\n    yield {3: 1}\n", "", {}, "3 is neither a field"),
        (
            "def sweep():\n    yield {'seed': object()}\n",
            "",
            {},
            "seed has a type of no field, object",
        ),
        ("def sweep():\n    yield {'width': (1, 2)}\n", "", {}, "contains a comma"),
        ("def sweep():\n    yield {'augment': 'a\\nb'}\n", "", {}, "line break"),
        ("def sweep():\n    yield {'seed': 1 // 0}\n", "", {}, r"small.py:\d+: ZeroDivisionError"),
    ],
)
def test_a_mistake_gives_a_one_line_error(written, text, names, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        points.read(written(text), overrides, names)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_generator_names_its_line_for_a_relative_path(written, monkeypatch):
    path = written("def sweep():\n    yield {}\n    yield {'seed': 1 // 0}\n")
    folder, name = os.path.split(path)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=r"^small\.py:11: ZeroDivisionError: "):
        points.read(name, {})
    written("def sweep(a, b):\n    pass\n")
    with pytest.raises(InputError, match=r"^small\.py:9: TypeError: sweep\(\) missing 1"):
        points.read(name, {})


@pytest.mark.parametrize(
    "text",
    [
        "def sweep():\n    while True:\n        yield {'seed': 1}\n",
        "def sweep():\n    for i in range(101):\n        yield {'batch_size': i}\n",
    ],
)
def test_the_number_of_points_is_limited(written, text):
    with pytest.raises(InputError, match="10000 points|10100 points; at most 10000 are possible"):
        points.read(written(text), {}, seeds=100)
    with pytest.raises(InputError, match="--seeds=10001 must be at least 1 and at most 10000"):
        points.read(written(text), {}, seeds=10001)


def test_a_dataset_with_a_comma_in_its_path(written):
    text = "def sweep():\n    yield {'dataset': 'folder:/a,b/c', 'width': 9}\n"
    sweep = points.read(written(text), {})
    (point,) = sweep.points
    assert sweep.reference(point).endswith("small.py:folder:/a,b/c,width=9")
    sweep = points.read(written(WIDTHS) + ":folder:/a,b/c", {})
    assert sweep.reference(sweep.points[0]).endswith("small.py:folder:/a,b/c,width=8")
    with pytest.raises(InputError, match="the sweep sets the argument dataset"):
        points.read(written(text) + ":folder:/a,b/c", {})


def test_seeds_and_arguments_are_set_once(written):
    path = written("def sweep():\n    yield {'seed': 4}\n" + WIDTHS)
    with pytest.raises(InputError, match="two of the combined sweeps set seed"):
        points.read(path, {}, seeds=2)
    with pytest.raises(InputError, match="at least 1"):
        points.read(path, {}, "width", seeds=0)
    with pytest.raises(InputError, match="the sweep sets the argument width"):
        points.read(path + ":digits,width=3", {}, "width")
    assert len(points.read(path + ":digits,model=mlp", {}, "width").points) == 3


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=200)
)
POINTS = st.dictionaries(st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9})?", fullmatch=True), VALUES)


@given(POINTS, POINTS)
@example({"a": "1,b=2"}, {"a": 1, "b": 2})
@example({"a": (3, 4)}, {"a": "3x4"})
def test_names_are_safe_short_and_unique(first, second):
    for values in (first, second):
        name = points.name_of(values)
        assert 0 < len(name.encode()) <= points.LONGEST_NAME
        assert os.path.basename(name) == name
        assert name.isprintable()
        assert name not in (".", "..")
        assert not name.startswith("-")

    def texts(values):
        return [(key, points.text_of(value)) for key, value in values.items()]

    if texts(first) != texts(second):
        assert points.name_of(first) != points.name_of(second)


def test_numpy_values_become_python_values(written):
    text = "import numpy as np\ndef sweep():\n    yield {'seed': np.int64(3), 'ema.decay': 0.5}\n"
    (point,) = points.read(written(text), {}).points
    assert not isinstance(point.overrides["seed"], np.generic)
    assert point.name == "seed=3,ema.decay=0.5"


def test_distinct_keys_are_the_keys_with_several_values(written):
    text = "def sweep():\n    for s in (0, 1):\n        yield {'width': 4, 'seed': s}\n"
    assert points.distinct(points.read(written(text), {}).points) == ["seed"]
