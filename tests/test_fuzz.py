"""Fuzzing of the command line: any config trains, or ends with one clear line and exit code 2.

An example makes two steps (a longer run is stopped by SIGTERM, exit code 75), or is refused: exit
code 2, one line on stderr that begins with "error: ", no file written. Exit code 3, a loss that is
not finite, is allowed for the fields in `fuzzing.MAY_DIVERGE` only.

`python -m pytest tests/test_fuzz.py --hypothesis-profile=long` draws thousands of new examples.
"""

import functools
import inspect

import fuzzing
import pytest
from fuzzing import NETS, NUMBERS, ROOT, TEXTS, TINY, VALUES, max_examples
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cv_jax import config as configs
from cv_jax.augment import STAGES
from cv_jax.evaluation.kinds import KINDS, options_of
from cv_jax.optim import optimisers, schedules
from cv_jax.tasks import losses


@pytest.fixture(scope="module")
def attempt(data_dir):
    """`attempt("mlp", {"batch_size": "0"}, …)` returns the checked `fuzzing.Outcome`."""
    return functools.partial(fuzzing.attempt, data_dir)


# ---- Values of fields

# Fields whose values create folders or processes; see the examples below.
LEFT_OUT = ("data.dir", "compile_cache", "xla_flags", "data.workers")


def values_of(net):
    config = configs.flatten(configs.load(f"{ROOT}/configs/{net}.py"))
    return {name: value for name, value in config.items() if name not in LEFT_OUT}


VALUES_OF = {net: values_of(net) for net in NETS}
NAMES = {net: list(values) for net, values in VALUES_OF.items()}


@st.composite
def one_field(draw, values=VALUES):
    """Draw a network and a value for one of its fields."""
    net = draw(st.sampled_from(list(NETS)))
    return net, {draw(st.sampled_from(NAMES[net])): draw(values)}


@max_examples(45)
@given(one_field())
@example(("mlp", {"batch_size": str(2**40)}))
@example(("mlp", {"image_size": "1e6"}))
@example(("linear", {"optim.learning_rate": "inf"}))
@example(("vit_ti16", {"model.depth": "1e6"}))
@example(("vit_ti16", {"model.num_heads": "0"}))
@example(("vit_ti16", {"model.mlp_ratio": "0"}))
@example(("mlp", {"data.workers": "1e6"}))
@example(("mlp", {"data.dir": "a\x00b"}))
@example(("mlp", {"xla_flags": "a\x00b"}))
@example(("mlp", {"compile_cache": "a\x00b"}))
def test_any_value_of_any_field(attempt, fields):
    attempt(*fields)


@st.composite
def several_fields(draw):
    """Draw a network and values for two to five of its fields."""
    net = draw(st.sampled_from(list(NETS)))
    names = draw(st.lists(st.sampled_from(NAMES[net]), min_size=2, max_size=5, unique=True))
    return net, {name: draw(VALUES) for name in names}


@max_examples(20)
@given(several_fields())
def test_several_fields_at_once(attempt, fields):
    attempt(*fields)


CHOICES = {
    "optim.name": list(optimisers.OPTIMISERS),
    "optim.moment_dtype": ["float32", "bfloat16"],
    "schedule.name": list(schedules.SCHEDULES),
    "loss.name": list(losses.LOSSES),
    "eval.average": ["probabilities", "logits"],
    "data.cache": ["auto", "memory", "device", "none"],
    "dropout_rng": ["threefry2x32", "rbg"],
    "model.act": ["relu", "gelu", "tanh", "silu"],
    "model.pool": ["cls", "mean", "map"],
    "model.dtype": ["float32", "bfloat16"],
    "model.param_dtype": ["float32", "bfloat16"],
}
LIKELY = {
    bool: st.sampled_from(["true", "false"]),
    int: st.sampled_from(["1", "2", "3", "4", "8"]),
    float: st.sampled_from(["0.0", "0.01", "0.1", "0.5", "0.9", "1.0", "2.0"]),
    type(None): st.sampled_from(["none", "1", "2"]),
}


@st.composite
def sensible_fields(draw):
    """Draw a network and plausible values of the right type for one to five fields."""
    net, config = draw(st.sampled_from(list(NETS))), {}
    values = {name: value for name, value in VALUES_OF[net].items() if type(value) in LIKELY}
    known = [*values, *(name for name in CHOICES if name in VALUES_OF[net])]
    for name in draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True)):
        likely = LIKELY[type(values[name])] if name in values else st.sampled_from(CHOICES[name])
        config[name] = draw(likely)
    return net, config


@pytest.mark.slow
@pytest.mark.long
@max_examples(9)
@given(sensible_fields())
def test_sensible_values_together(attempt, fields):
    attempt(*fields)


# ---- Names of fields


@st.composite
def misspelt(draw):
    """Draw a field name with one letter changed, doubled or removed, and the correct name."""
    name = draw(st.sampled_from([n for n in NAMES["mlp"] if len(n.rpartition(".")[2]) > 5]))
    place = draw(st.integers(name.rfind(".") + 1, len(name) - 1))
    letter = draw(st.sampled_from(["", name[place] * 2, "x", "_"]))
    return name[:place] + letter + name[place + 1 :], name


@max_examples(30)
@given(misspelt())
def test_the_right_spelling_is_suggested(attempt, names):
    wrong, right = names
    assume(wrong not in NAMES["mlp"])
    outcome = attempt("mlp", {wrong: "1"})
    assert outcome.code == 2
    assert f"did you mean config.{right}?" in outcome.stderr


@max_examples(20)
@given(
    st.one_of(
        TEXTS,
        st.lists(st.sampled_from([*NAMES["mlp"], "model", "optim", "x", ""]), max_size=4).map(
            ".".join
        ),
        st.just("a" * 10000),
    )
)
def test_any_name_of_a_field(attempt, name):
    assume(name not in NAMES["mlp"] and "=" not in name)
    assert attempt("mlp", {name: "1"}).code == 2


@max_examples(20)
@given(st.lists(st.one_of(TEXTS, st.sampled_from(["--", "--config", "-h=1", "--x", "x=1"]))))
def test_any_words_on_the_command_line(attempt, words):
    assume(not any(word in ("-h", "--help", "--evaluate") for word in words))
    attempt("mlp", {}, words=words)


# ---- Config files


def _python(value):
    """Return the value as a Python literal."""
    return repr(value).replace("inf", "1e400").replace("nan", "(1e400 - 1e400)")


OBJECTS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just(2**100), st.binary()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
    ),
    max_leaves=6,
)


@max_examples(30)
@given(st.sampled_from(NAMES["mlp"]), OBJECTS)
def test_any_object_in_a_config_file(attempt, tmp_path_factory, name, value):
    file = tmp_path_factory.getbasetemp() / "fuzz.py"
    file.write_text(
        "from cv_jax import config\n\n\n"
        "def get_config(arg):\n"
        '    c = config.default("digits", "mlp")\n'
        "    c.model.widths = (8,)\n"
        f"    c.{name} = {_python(value)}\n"
        "    return c\n"
    )
    overrides = {key: value for key, value in TINY.items() if key != name}
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    attempt("mlp", {}, file=str(file), only=flags)


@max_examples(10)
@given(
    st.one_of(TEXTS, st.sampled_from(["", "1/0", "x = (", "get_config = 3", "raise SystemExit"]))
)
@example("def get_config(arg): return 3")
@example("def get_config(): pass")
@example("from cv_jax import config\ndef get_config(arg): return config.default(3)")
@example("from cv_jax import config\ndef get_config(arg): return config.default(model='lenet')")
@example("def get_config(arg): raise KeyError")
@example("def get_config(arg): exit(0)")
@example("import nothing_of_that_name")
def test_any_config_file(attempt, tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.py"
    file.write_text(text)
    assert attempt("mlp", {}, file=str(file), only=[]).code == 2


@max_examples(30)
@given(
    st.sampled_from(["mlp", "vit_ti16", "resnet"]),
    st.lists(
        st.one_of(
            TEXTS,
            st.sampled_from(
                ["digits", "cifar1O", "model=mlp", "model=vit_ti16", "model=", "recipe"]
            ),
            st.sampled_from(["=", "a=b", "model=swin_t", "model", ",", ":", "digits:1.0.0"]),
        ),
        max_size=3,
    ).map(",".join),
)
def test_any_argument_of_a_config_file(attempt, net, argument):
    assert attempt(net, {}, argument=argument).code in (0, 2)


# ---- Fields with a grammar

LITERALS = st.one_of(
    NUMBERS,
    st.sampled_from(["0", "1", "2", "4", "8", "0.5", "0.1", "1.0", "(8, 8)", "(4, 8)", "None"]),
    st.sampled_from(["'bilinear'", "'reflect'", "'pixel'", "True", "[1]", "()", "{}", "'x", "x"]),
)


@st.composite
def calls(draw, names, options):
    """Draw `name(literal, option=literal)|…`, also with missing options and wrong literals."""
    terms = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        arguments = [draw(LITERALS) for _ in range(draw(st.integers(0, 2)))]
        known = options.get(name, [])
        if known:
            chosen = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
            arguments += [f"{option}={draw(LITERALS)}" for option in chosen]
        terms.append(draw(st.sampled_from([name, f"{name}({', '.join(arguments)})"])))
    return "|".join(terms)


OPERATIONS = {
    name: list(inspect.signature(factory).parameters)
    for stage in STAGES.values()
    for name, factory in stage.items()
}


@max_examples(40)
@given(st.one_of(calls(list(OPERATIONS), OPERATIONS), VALUES))
@example("pad_crop(1000000)")
@example("randaugment(1000000)")
@example("resize(8)|" + "flip|" * 3000)
@example("views(1000000)")
@example("resize(" * 500)
def test_any_augmentation(attempt, text):
    attempt("linear", {"augment": text})


TEST_TIME = ["resize", "resize_small", "central_crop", "flips", "ten_crop", "multi_scale", "flip"]


@max_examples(20)
@given(calls(TEST_TIME, OPERATIONS))
@example("resize(9)" + "|ten_crop(8)" * 9)
def test_any_preprocessing(attempt, text):
    attempt("linear", {"eval_preprocess": text})


@max_examples(30)
@given(st.one_of(calls(list(KINDS), {kind: list(options_of(kind)) for kind in KINDS}), VALUES))
@example("knn(train_examples=20, k=1e30)")
@example("knn(" * 500)
@example("|".join(f"knn(name='k{i}', k=1)" for i in range(3000)))
def test_any_further_evaluation(attempt, text):
    attempt("mlp", {"eval.extra": text})


PATTERNS = st.one_of(
    st.sampled_from([".*", "fc1/.*", "head/kernel", "(", "[", "(a+)+b", ""]), TEXTS
)
STATEMENTS = st.one_of(
    st.sampled_from(["freeze", "train", "lr=0", "lr=-1", "lr", "x=1", ""]),
    st.builds("lr={}".format, NUMBERS),
    st.builds("decay={}".format, NUMBERS),
)


@max_examples(20)
@given(st.lists(st.builds("{}: {}".format, PATTERNS, STATEMENTS), max_size=3).map(",".join))
def test_any_rules(attempt, text):
    attempt("mlp", {"optim.rules": text})
