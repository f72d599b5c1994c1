"""What a sweep is made of: generators, products, names, conflicts."""

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
    """`written(text)`: a config file with these generators; its path."""

    def write(text):
        path = tmp_path / "small.py"
        path.write_text(CONFIG + text)
        return str(path)

    return write


RATES = "def sweep_rate():\n    for r in (0.1, 1e-5):\n        yield {'optim.learning_rate': r}\n"
WIDTHS = "def sweep_width():\n    for w in (8, 16, 32):\n        yield {'width': w}\n"
BASE = "def sweep():\n    yield {}\n    yield {'batch_size': 64}\n"


def test_a_product_has_every_combination_once_the_last_changing_fastest(written):
    sweep = points.read(written(RATES + WIDTHS), {}, "width,rate", seeds=2)
    expected = [
        ({"width": w}, {"optim.learning_rate": r, "seed": s})
        for w, r, s in itertools.product((8, 16, 32), (0.1, 1e-5), (0, 1))
    ]
    assert [(p.arguments, p.overrides) for p in sweep.points] == expected
    assert len({p.name for p in sweep.points}) == 12
    assert sweep.points[0].name == "width=8,optim.learning_rate=0.1,seed=0"


def test_without_a_name_sweep_is_taken_or_the_only_one(written):
    names = [p.name for p in points.read(written(BASE + RATES), {}).points]
    assert names == ["default", "batch_size=64"]
    assert len(points.read(written(WIDTHS), {}).points) == 3
    with pytest.raises(InputError, match="choose with --sweep=NAME.*: rate, width"):
        points.read(written(RATES + WIDTHS), {})


def test_a_generator_may_take_the_argument(written):
    text = "def sweep(arg):\n    yield {'width': len(arg)}\n"
    (point,) = points.read(written(text) + ":digits", {}).points
    assert point.arguments == {"width": 6}


def test_the_plain_command_of_a_point_gives_its_values(written):
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
    ("text", "names", "overrides", "said"),
    [
        ("", "", {}, "defines no sweep"),
        (RATES, "depth", {}, "has no sweep 'depth'; allowed: rate"),
        (BASE, "depth", {}, "it defines no sweep_<name>"),
        (RATES, "rate,rate", {}, "combined with itself"),
        (RATES, "rate,", {}, "has no sweep ''"),
        (RATES, "", {"optim.learning_rate": "1"}, "--config.optim.learning_rate: .* is swept"),
        ("def sweep():\n    yield {'total_steps': 3}\n", "", {"total_epochs": "2"}, "is swept"),
        (RATES + RATES.replace("rate(", "again("), "rate,again", {}, "two of the sweeps"),
        ("def sweep():\n    yield {'seed': 1}\n    yield {'seed': 1}\n", "", {}, "comes twice"),
        ("def sweep():\n    return ()\n", "", {}, "has no points"),
        ("def sweep():\n    yield 3\n", "", {}, "3 is no dict"),
        ("def sweep():\n    yield {3: 1}\n", "", {}, "3 is neither a field"),
        ("def sweep():\n    yield {'seed': object()}\n", "", {}, "seed is a object"),
        ("def sweep():\n    yield {'width': (1, 2)}\n", "", {}, "must not hold a comma"),
        ("def sweep():\n    yield {'augment': 'a\\nb'}\n", "", {}, "line break"),
        ("def sweep():\n    yield {'seed': 1 // 0}\n", "", {}, r"small.py:\d+: ZeroDivisionError"),
    ],
)
def test_a_mistake_is_told_in_one_line(written, text, names, overrides, said):
    with pytest.raises(InputError, match=said) as caught:
        points.read(written(text), overrides, names)
    assert "\n" not in str(caught.value)


def test_seeds_and_arguments_are_given_once(written):
    path = written("def sweep():\n    yield {'seed': 4}\n" + WIDTHS)
    with pytest.raises(InputError, match="seed is set by two"):
        points.read(path, {}, seeds=2)
    with pytest.raises(InputError, match="at least 1"):
        points.read(path, {}, "width", seeds=0)
    with pytest.raises(InputError, match="the argument width is swept"):
        points.read(path + ":digits,width=3", {}, "width")
    assert len(points.read(path + ":digits,model=mlp", {}, "width").points) == 3


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=200)
)
POINTS = st.dictionaries(st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9})?", fullmatch=True), VALUES)


@given(POINTS, POINTS)
@example({"a": "1,b=2"}, {"a": 1, "b": 2})
@example({"a": (3, 4)}, {"a": "3x4"})
def test_names_are_safe_short_and_tell_points_apart(first, second):
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


def test_numpy_values_count_as_python_ones(written):
    text = "import numpy as np\ndef sweep():\n    yield {'seed': np.int64(3), 'ema.decay': 0.5}\n"
    (point,) = points.read(written(text), {}).points
    assert not isinstance(point.overrides["seed"], np.generic)
    assert point.name == "seed=3,ema.decay=0.5"


def test_distinct_keys_are_those_that_vary(written):
    text = "def sweep():\n    for s in (0, 1):\n        yield {'width': 4, 'seed': s}\n"
    assert points.distinct(points.read(written(text), {}).points) == ["seed"]
