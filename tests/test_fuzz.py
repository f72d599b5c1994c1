"""Whatever a config says, a run trains or ends in one clear line with exit code 2, never otherwise.

The command line runs in this process on tiny nets and a few digits. Every example either makes two
steps (a longer run is then stopped as by SIGTERM, code 75) or is refused: code 2, a single line on
stderr that begins with "error: ", nothing written. Code 3, a loss that is not finite, is granted to
the numbers in `MAY_DIVERGE` only. Time and memory are bounded.

`python -m pytest tests/test_fuzz.py --hypothesis-profile=long` draws thousands of new examples.
"""

import contextlib
import faulthandler
import inspect
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import psutil
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import config as configs  # noqa: E402
from cv_jax.augment import STAGES  # noqa: E402
from cv_jax.evaluation.plan import KINDS  # noqa: E402
from cv_jax.optim import optimisers, schedules  # noqa: E402
from cv_jax.tasks import losses  # noqa: E402
from cv_jax.training import experiment  # noqa: E402

SECONDS, GIBIBYTES = 300, 6  # an example may take at most; the memory is the whole process's

_VIT = {"model.width": 8, "model.depth": 1, "model.num_heads": 2, "model.patch_size": 4}
# Config → what makes it tiny.
NETS = {
    "linear": {},
    "mlp": {"model.widths": "8"},
    "lenet5": {"image_size": 16},
    "vit_ti16": _VIT,
    "mae": {
        **_VIT,
        "model.decoder_width": 8,
        "model.decoder_depth": 1,
        "model.decoder_num_heads": 2,
    },
    "swin": {"model.width": 4, "model.depths": "1,1", "model.num_heads": "1,2", "image_size": 16},
    "resnet": {"model.widths": "4,4", "model.stem_width": 4, "model.stage_sizes": "1,1"},
    "image_transformer": {},
}
TINY = {
    "image_size": 8,
    "batch_size": 8,
    "eval.batch_size": 8,
    "total_steps": 2,
    "schedule.warmup_steps": 1,
    "data.train_split": "train[:40]",
    "data.eval_split": "test[:20]",
    "mesh.devices": 1,
    "augment": "",
}

# A number here may honestly make the loss of the first steps infinite.
MAY_DIVERGE = {
    *("optim.learning_rate", "optim.weight_decay", "optim.eps", "optim.trust_coefficient"),
    *("optim.base_batch_size", "optim.rules", "data.mean", "data.std", "loss.z", "loss.gamma"),
    *("model.dtype", "model.param_dtype"),
}


class Ending:
    """How a run ended: exit code, what it said on stderr, and the batches that it took."""

    def __init__(self, flags: list[str], workdir: Path):
        self.flags, self.workdir, self.steps, self.code = flags, workdir, 0, None
        batches = experiment.Experiment.train_batches

        def stopped_after_two(parts, start_step):
            for batch in batches(parts, start_step):
                yield batch
                self.steps += 1
                if self.steps == 2 and parts.total_steps > 2:
                    os.kill(os.getpid(), signal.SIGTERM)

        with (
            tempfile.TemporaryFile("w+") as said,  # a signal handler wants a file with a number
            mock.patch.object(experiment.Experiment, "train_batches", stopped_after_two),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
            bounded(),
        ):
            self.code = launch.run([*flags, "--workdir", str(workdir)])
            said.seek(0)
            self.said = said.read()


@contextlib.contextmanager
def bounded():
    """Memory beyond the limit is refused by the kernel; a process that hangs is ended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + GIBIBYTES * 2**30
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        faulthandler.cancel_dump_traceback_later()


def check(ending: Ending, fields: Iterable[str]) -> None:
    """Asserts that a run with these fields changed trained or was refused as it should be."""
    about = f"{ending.flags}: code {ending.code}: {ending.said}"
    if ending.code == 2:
        assert ending.said.startswith("error: "), about
        assert ending.said.count("\n") == 1, about
        assert 20 < len(ending.said) < 1500, about
        assert not ending.workdir.exists(), about
    elif ending.code == 3:
        assert not MAY_DIVERGE.isdisjoint(fields), about
    else:
        assert ending.code in (0, 75), about
        assert ending.steps >= 1, about


@pytest.fixture(scope="module")
def attempt(data_dir):
    """`attempt("mlp", {"batch_size": "0"}, …)`: the ending of that run, checked."""

    def run(net, overrides, argument="", file=None, words=(), only=None):
        values = {**TINY, **NETS.get(net, {}), "data.dir": data_dir, **overrides}
        reference = file or f"{ROOT}/configs/{net}.py"
        flags = ["--config", f"{reference}:{argument}" if argument else reference]
        if only is None:
            flags += [f"--config.{name}={value}" for name, value in values.items()]
        else:
            flags += [f"--config.data.dir={data_dir}", *only]
        folder = Path(tempfile.mkdtemp())
        try:
            ending = Ending([*flags, *words], folder / "run")
            check(ending, overrides)
        finally:
            shutil.rmtree(folder)
        return ending

    return run


def quietly(examples):
    """So many examples where they are the same in every run, else as many as the profile says."""
    return settings(
        max_examples=examples if settings.default.derandomize else settings.default.max_examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# ---- Values

NUMBERS = st.sampled_from(
    [
        *("0", "1", "2", "3", "-1", "-2", "0.5", "1.5", "1e-3", "0.1", "4", "7", "8", "16"),
        *("1e3", "1e5", "1e9", "1e30", "1e400", "-1e400", "nan", "-nan", "inf", "-inf", "-0.0"),
        *(str(2**31 - 1), str(2**31), str(2**32), str(2**40), str(2**63), str(2**64), "1e-400"),
        *("0x10", "1_000", "٣", "1e", "--1", "9" * 400, "1e-45", "3.4e38"),
    ]
)
WORDS = st.sampled_from(
    [
        *("", " ", "none", "None", "true", "False", "auto", "relu", "gelu", "float16", "bfloat16"),
        *("float32", "float64", "int8", "complex64", "x" * 5000, "ünïcödé", "a\x00b", "\n", "∞"),
        *("../..", "/dev/null", "/", "folder:/", "folder:/nowhere", "records:/nowhere", "digits"),
        *(
            "digits:9.9.9",
            "train",
            "train[:50%]",
            "train[:0]",
            "test+train",
            "train[5:2]",
            "[",
            "{",
        ),
        *("__import__('os')", "os.system('x')", "lambda: 0", "%s%s%s", "${HOME}", "'", '"', "\\"),
    ]
)
LISTS = st.lists(st.one_of(NUMBERS, WORDS), max_size=5).map(",".join)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.one_of(
    NUMBERS,
    NUMBERS,
    WORDS,
    LISTS,
    LISTS.map("({})".format),
    LISTS.map("[{}]".format),
    st.integers().map(str),
    st.floats().map(repr),
    TEXTS,
)


# These make folders or processes wherever they are told to: they have examples of their own.
LEFT_OUT = ("data.dir", "compile_cache", "xla_flags", "data.workers")


def values_of(net):
    config = configs.flatten(configs.load(f"{ROOT}/configs/{net}.py"))
    return {name: value for name, value in config.items() if name not in LEFT_OUT}


VALUES_OF = {net: values_of(net) for net in NETS}
NAMES = {net: list(values) for net, values in VALUES_OF.items()}


@st.composite
def one_field(draw, values=VALUES):
    """A net, one of its fields, a value for it."""
    net = draw(st.sampled_from(list(NETS)))
    return net, {draw(st.sampled_from(NAMES[net])): draw(values)}


@quietly(45)
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
def test_any_value_of_any_field(attempt, what):
    attempt(*what)


@st.composite
def several_fields(draw):
    """A net and a handful of its fields, each with whatever value."""
    net = draw(st.sampled_from(list(NETS)))
    names = draw(st.lists(st.sampled_from(NAMES[net]), min_size=2, max_size=5, unique=True))
    return net, {name: draw(VALUES) for name in names}


@quietly(20)
@given(several_fields())
def test_several_fields_at_once(attempt, what):
    attempt(*what)


CHOICES = {
    "optim.name": list(optimisers.OPTIMISERS),
    "optim.moment_dtype": ["float32", "bfloat16"],
    "schedule.name": list(schedules.SCHEDULES),
    "loss.name": list(losses.LOSSES),
    "eval.average": ["probabilities", "logits"],
    "data.cache": ["auto", "memory", "device", "none"],
    "dropout_rng": ["threefry2x32", "rbg"],
    "model.act": ["relu", "gelu", "tanh", "silu"],
    "model.pool": ["cls", "gap", "map"],
    "model.dtype": ["float32", "bfloat16", "float16"],
}
LIKELY = {
    bool: st.sampled_from(["true", "false"]),
    int: st.sampled_from(["1", "2", "3", "4", "8"]),
    float: st.sampled_from(["0.0", "0.01", "0.1", "0.5", "0.9", "1.0", "2.0"]),
    type(None): st.sampled_from(["none", "1", "2"]),
}


@st.composite
def sensible_fields(draw):
    """The same with values of the right type that look as if they might be meant."""
    net, config = draw(st.sampled_from(list(NETS))), {}
    values = {name: value for name, value in VALUES_OF[net].items() if type(value) in LIKELY}
    known = [*values, *(name for name in CHOICES if name in VALUES_OF[net])]
    for name in draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True)):
        likely = LIKELY[type(values[name])] if name in values else st.sampled_from(CHOICES[name])
        config[name] = draw(likely)
    return net, config


@quietly(9)
@given(sensible_fields())
def test_sensible_values_together(attempt, what):
    attempt(*what)


# ---- Names


@st.composite
def misspelt(draw):
    """A field's name with one letter changed, doubled or left out, and that name."""
    name = draw(st.sampled_from([n for n in NAMES["mlp"] if len(n.rpartition(".")[2]) > 5]))
    place = draw(st.integers(name.rfind(".") + 1, len(name) - 1))
    letter = draw(st.sampled_from(["", name[place] * 2, "x", "_"]))
    return name[:place] + letter + name[place + 1 :], name


@quietly(30)
@given(misspelt())
def test_the_right_spelling_is_told(attempt, what):
    wrong, right = what
    assume(wrong not in NAMES["mlp"])
    ending = attempt("mlp", {wrong: "1"})
    assert ending.code == 2
    assert f"did you mean config.{right}?" in ending.said


@quietly(20)
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


@quietly(20)
@given(st.lists(st.one_of(TEXTS, st.sampled_from(["--", "--config", "-h=1", "--x", "x=1"]))))
def test_any_words_on_the_command_line(attempt, words):
    assume(not any(word in ("-h", "--help", "--evaluate") for word in words))
    attempt("mlp", {}, words=words)


# ---- What files say


def _python(value):
    """The value as Python spells it in a config file."""
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


@quietly(30)
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


@quietly(10)
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


@quietly(30)
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


# ---- Strings with a grammar

LITERALS = st.one_of(
    NUMBERS,
    st.sampled_from(["0", "1", "2", "4", "8", "0.5", "0.1", "1.0", "(8, 8)", "(4, 8)", "None"]),
    st.sampled_from(["'bilinear'", "'reflect'", "'pixel'", "True", "[1]", "()", "{}", "'x", "x"]),
)


@st.composite
def calls(draw, names, options):
    """`name(literal, option=literal)|…`, sometimes with something else in between."""
    terms = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        given = [draw(LITERALS) for _ in range(draw(st.integers(0, 2)))]
        known = options.get(name, [])
        if known:
            chosen = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
            given += [f"{option}={draw(LITERALS)}" for option in chosen]
        terms.append(draw(st.sampled_from([name, f"{name}({', '.join(given)})"])))
    return "|".join(terms)


OPERATIONS = {
    name: list(inspect.signature(factory).parameters)
    for stage in STAGES.values()
    for name, factory in stage.items()
}


@quietly(40)
@given(st.one_of(calls(list(OPERATIONS), OPERATIONS), VALUES))
@example("pad_crop(1000000)")
@example("randaugment(1000000)")
@example("resize(8)|" + "flip|" * 3000)
@example("views(1000000)")
@example("resize(" * 500)
def test_any_augmentation(attempt, text):
    attempt("linear", {"augment": text})


TEST_TIME = ["resize", "resize_small", "central_crop", "flips", "ten_crop", "multi_scale", "flip"]


@quietly(20)
@given(calls(TEST_TIME, OPERATIONS))
@example("resize(9)" + "|ten_crop(8)" * 9)
def test_any_preprocessing(attempt, text):
    attempt("linear", {"eval_preprocess": text})


@quietly(30)
@given(st.one_of(calls(list(KINDS), {kind: list(found) for kind, found in KINDS.items()}), VALUES))
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


@quietly(20)
@given(st.lists(st.builds("{}: {}".format, PATTERNS, STATEMENTS), max_size=3).map(",".join))
def test_any_rules(attempt, text):
    attempt("mlp", {"optim.rules": text})
