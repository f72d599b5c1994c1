"""Runs of arbitrary configs, with bounded time and memory, and strategies for config values.

Used by `test_fuzz.py`. Networks are tiny, and the data are a few digits.
"""

import contextlib
import faulthandler
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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax.errors import ExitCode  # noqa: E402
from cv_jax.training import experiment  # noqa: E402

SECONDS = 300  # limit of one example
GIBIBYTES = 6  # limit of the address space that one example adds to the process

_VIT = {"model.width": 8, "model.depth": 1, "model.num_heads": 2, "model.patch_size": 4}
# Config → overrides that make the network tiny.
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

# Extreme numbers in these fields may make the loss of the first steps infinite.
MAY_DIVERGE = {
    *("optim.learning_rate", "optim.weight_decay", "optim.eps", "optim.trust_coefficient"),
    *("optim.base_batch_size", "optim.rules", "data.mean", "data.std", "loss.z", "loss.gamma"),
    *("model.dtype", "model.param_dtype"),
}


class Outcome:
    """A command run in this process, and its outcome.

    A run of more than two steps receives SIGTERM at its second batch.

    Attributes:
      flags: command line without `--workdir`.
      workdir: run directory.
      code: exit code.
      stderr: everything printed to stderr.
      steps: number of training batches.
    """

    def __init__(self, flags: list[str], workdir: Path):
        self.flags, self.workdir, self.steps, self.code = flags, workdir, 0, None
        batches = experiment.Experiment.train_batches

        def stop_after_two(parts, start_step):
            for batch in batches(parts, start_step):
                yield batch
                self.steps += 1
                if self.steps == 2 and parts.total_steps > 2:
                    os.kill(os.getpid(), signal.SIGTERM)

        with (
            tempfile.TemporaryFile("w+") as stderr,  # faulthandler needs a file descriptor
            mock.patch.object(experiment.Experiment, "train_batches", stop_after_two),
            contextlib.redirect_stderr(stderr),
            contextlib.redirect_stdout(io.StringIO()),
            _limits(),
        ):
            self.code = launch.run([*flags, "--workdir", str(workdir)])
            stderr.seek(0)
            self.stderr = stderr.read()


@contextlib.contextmanager
def _limits():
    """Limit the address space, and end a process that hangs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + GIBIBYTES * 2**30
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        faulthandler.cancel_dump_traceback_later()


def _check(outcome: Outcome, fields: Iterable[str]) -> None:
    """Assert that a run with changed fields trained, or was refused with one line."""
    about = f"{outcome.flags}: code {outcome.code}: {outcome.stderr}"
    if outcome.code == ExitCode.MISTAKE:
        assert outcome.stderr.startswith("error: "), about
        assert outcome.stderr.count("\n") == 1, about
        assert 20 < len(outcome.stderr) < 1500, about
        assert not outcome.workdir.exists(), about
    elif outcome.code == ExitCode.NOT_FINITE:
        assert not MAY_DIVERGE.isdisjoint(fields), about
    else:
        assert outcome.code in (ExitCode.DONE, ExitCode.STOPPED), about
        assert outcome.steps >= 1, about


def attempt(data_dir, net, overrides, argument="", file=None, words=(), only=None) -> Outcome:
    """Run a config, check its outcome, and return it.

    Args:
      data_dir: prepared digits.
      net: key of `NETS`.
      overrides: field → value; added to `TINY` and `NETS[net]`.
      argument: argument of the config file.
      file: config file; by default `configs/{net}.py`.
      words: further words of the command line.
      only: flags in place of all overrides.
    """
    values = {**TINY, **NETS.get(net, {}), "data.dir": data_dir, **overrides}
    reference = file or f"{ROOT}/configs/{net}.py"
    flags = ["--config", f"{reference}:{argument}" if argument else reference]
    if only is None:
        flags += [f"--config.{name}={value}" for name, value in values.items()]
    else:
        flags += [f"--config.data.dir={data_dir}", *only]
    folder = Path(tempfile.mkdtemp())
    try:
        outcome = Outcome([*flags, *words], folder / "run")
        _check(outcome, overrides)
    finally:
        shutil.rmtree(folder)
    return outcome


def max_examples(number):
    """Hypothesis settings: `number` derandomised examples, limited by the profile."""
    profile = settings.default
    return settings(
        max_examples=min(number, profile.max_examples)
        if profile.derandomize
        else profile.max_examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


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
        *("digits:9.9.9", "train", "train[:50%]", "train[:0]", "test+train", "train[5:2]"),
        *("[", "{", "__import__('os')", "os.system('x')", "lambda: 0", "%s%s%s", "${HOME}"),
        *("'", '"', "\\"),
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
