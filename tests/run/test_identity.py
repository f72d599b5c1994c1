"""A run continues after an upgrade and after a move; other conditions are reported."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_jax import config as configs
from cv_jax import models
from cv_jax.config.fields import FIELDS, Field
from cv_jax.interop import pretrained, saved
from cv_jax.models.mlp import MLP
from cv_jax.run import identity, provenance

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

SMALL = {
    "total_steps": 4,
    "checkpoint.every_steps": 2,
    "checkpoint.keep_last": 9,
    "batch_size": 16,
    "image_size": 8,
    "augment": "",
    "mesh.devices": 1,
    "schedule.warmup_epochs": "none",
}


@pytest.fixture
def command(tmp_path, monkeypatch, data_dir):
    """`command("mlp", …)` runs launch.py in a new folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(reference, *flags, **overrides):
        name, colon, argument = reference.partition(":")
        values = {**SMALL, "data.dir": data_dir, **overrides}
        if name == "mlp":
            values["model.widths"] = "8"
        words = [f"--config.{key}={value}" for key, value in values.items()]
        words += ["--config", f"{ROOT}/configs/{name}.py{colon}{argument}", *flags]
        return launch.run(words)

    return run


def error(capsys):
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def starts(path):
    return json.loads((path / "run.json").read_text())


def forget_the_end(path):
    """Make a finished run a run that was killed after step 2."""
    shutil.rmtree(path / "checkpoints" / "4")
    (path / "summary.json").unlink()


def runs():
    return sorted(Path("runs").iterdir())


class Newer(MLP):
    """The model of a later version, with one more field."""

    gain: float = 0  # an integer: the field of a config is 0.0


def test_a_run_continues_after_fields_are_added(command, monkeypatch, capsys):
    assert command("mlp") == 0
    (path,) = runs()
    lines, summary = ((path / x).read_text() for x in ("metrics.jsonl", "summary.json"))
    forget_the_end(path)
    for kind in ("result", "evaluation", "run"):
        name = f"optim.new_{kind}"
        monkeypatch.setitem(FIELDS, name, Field(name, float, 0, kind, "a new field"))
    entry = models.MODELS["mlp"]
    monkeypatch.setitem(models.MODELS, "mlp", entry._replace(module=Newer))
    assert command("mlp") == 0
    assert runs() == [path]
    assert [start["step"] for start in starts(path)] == [0, 2]
    assert (path / "metrics.jsonl").read_text() == lines
    assert (path / "summary.json").read_text() == summary  # its digest, too
    # Another value than the default is another run.
    assert command("mlp", **{"optim.new_result": 1.0}) == 0
    assert command("mlp", **{"model.gain": 1.0}) == 0
    assert len(runs()) == 3


def test_a_directory_with_the_digest_of_an_older_version_is_found(command, capsys):
    assert command("mlp") == 0
    (path,) = runs()
    old = path.with_name("mlp-digits-0123abcd")
    path.rename(old)
    capsys.readouterr()
    assert command("mlp") == 0
    assert capsys.readouterr().out.startswith("finished already")
    # Of two, the one with more updates continues.
    shutil.copytree(old, old.with_name("mlp-digits-99999999"))
    forget_the_end(old)
    assert command("mlp", "--evaluate") == 0
    assert (old.with_name("mlp-digits-99999999") / "evaluation.json").is_file()
    assert command("mlp", seed=1) == 0
    assert len(runs()) == 3


@pytest.mark.slow
def test_a_run_with_the_former_default_is_refused_and_continues_with_the_old_value(
    command, monkeypatch, capsys
):
    assert command("linear") == 0
    (path,) = runs()
    forget_the_end(path)
    field = FIELDS["optim.eps"]
    monkeypatch.setitem(FIELDS, "optim.eps", dataclasses.replace(field, default=1e-6))
    capsys.readouterr()
    assert command("linear") == 2
    assert "config.optim.eps: was 1e-08, is now 1e-06" in error(capsys)
    assert command("linear", **{"optim.eps": 1e-8}) == 0
    assert runs() == [path]


@pytest.mark.slow
def test_runs_from_other_weights_and_teachers_have_their_own_directories(command):
    for seed in (0, 1):
        assert command("linear", "--workdir", f"weights{seed}", seed=seed) == 0
    for seed in (0, 1):
        assert command("linear", init_from=f"weights{seed}") == 0
        assert command("linear", **{"distill.teacher": f"weights{seed}"}) == 0
    assert len(runs()) == 4
    assert command("linear", "--evaluate", **{"distill.teacher": "nowhere"}) == 2
    assert not list(Path("runs").glob("*/evaluation.json"))


def test_a_digest_covers_what_differs_from_the_defaults(load_config, monkeypatch):
    plain = load_config("mlp")
    digest = configs.digest(plain)
    for name, value in (("seed", 1), ("model.widths", "3"), ("data.fraction", 0.5)):
        assert configs.digest(load_config("mlp", {name: value})) != digest
    for name, value in (("data.workers", 1), ("eval.average", "logits")):
        assert configs.digest(load_config("mlp", {name: value})) == digest
    assert configs.digest(load_config("mlp", {"optim.momentum": 0.9})) == digest  # the default
    names = {configs.digest(configs.default("digits", name)) for name in ("mlp", "linear")}
    names |= {configs.digest(configs.default("mnist", "mlp"))}
    assert len(names) == 3


@pytest.mark.slow
def test_the_name_of_an_evaluation_covers_what_differs_from_the_run(command, monkeypatch):
    assert command("mlp") == 0
    (path,) = runs()
    shifted = {"eval_preprocess": "resize(8)|flips"}
    assert command("mlp", "--evaluate", **shifted) == 0
    (first,) = path.glob("evaluation-*.json")
    monkeypatch.setitem(FIELDS, "eval.new", Field("eval.new", float, 0, "evaluation", "new"))
    assert command("mlp", "--evaluate", **shifted) == 0
    assert list(path.glob("evaluation*.json")) == [first]


# ---- Places


def write_images(folder, seed=0):
    rng = np.random.default_rng(seed)
    for part, count in (("train", 16), ("val", 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
                image.save(folder / part / name / f"{i}.png")


def test_data_may_move(command, tmp_path, capsys):
    write_images(tmp_path / "photos")
    small = {"eval_preprocess": "", "data.eval_split": "val"}
    assert command("mlp:folder:photos", **small) == 0
    (path,) = runs()
    forget_the_end(path)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    moved = f"mlp:folder:{tmp_path}/elsewhere"
    assert command(moved, "--workdir", str(path), "--evaluate", **small) == 0
    assert command(moved, **small) == 0
    assert runs() == [path]
    assert [start["step"] for start in starts(path)] == [0, 2]
    # Other data in the place are another run.
    shutil.rmtree(tmp_path / "elsewhere")
    write_images(tmp_path / "elsewhere", seed=1)
    capsys.readouterr()
    assert command(moved, "--workdir", str(path), **small) == 2
    assert "was started with other data; " in error(capsys)


@pytest.mark.slow
def test_another_split_of_a_folder_may_be_evaluated(command, tmp_path):
    write_images(tmp_path / "photos")
    small = {"eval_preprocess": "", "data.eval_split": "val"}
    flags = ("mlp:folder:photos", "--workdir", "run")
    assert command(*flags, **small) == 0
    assert command(*flags, "--evaluate", **{**small, "data.eval_split": "train"}) == 0


def weights_of(path, file, factor=1.0):
    """Write the weights of a run to a file, multiplied by a factor."""
    weights = pretrained.read_run(path).weights
    params = {
        name: {key: x * np.float32(factor) for key, x in layer.items()}
        for name, layer in weights.variables["params"].items()
    }
    saved.write(file, weights._replace(variables={**weights.variables, "params": params}))


def test_a_teacher_may_move(command, tmp_path, capsys):
    assert command("mlp", "--workdir", "teacher") == 0
    old, new = {"distill.teacher": "teacher"}, {"distill.teacher": "moved"}
    assert command("linear", **old) == 0
    (path,) = runs()
    lines = (path / "metrics.jsonl").read_text()
    forget_the_end(path)
    Path("teacher").rename("moved")

    here = ("linear", "--workdir", str(path))
    assert command(*here, "--evaluate", **old) == 0  # the evaluation needs no teacher
    assert command(*here, "--evaluate", **new) == 0
    capsys.readouterr()
    assert command(*here, **old) == 2
    assert "config.distill.teacher: teacher" in error(capsys)
    assert command(*here, **{"distill.teacher": "none"}) == 2
    assert "config.distill.teacher: was 'teacher', is now None" in error(capsys)
    weights_of(Path("moved"), "other.safetensors", 1.5)
    assert command(*here, **{"distill.teacher": "other.safetensors"}) == 2
    assert f"--workdir={path} was started with another teacher; " in error(capsys)
    assert command("linear", **new) == 0
    assert runs() == [path]
    assert (path / "metrics.jsonl").read_text() == lines


@pytest.mark.slow
def test_initial_weights_may_move(command, capsys):
    assert command("mlp", "--workdir", "before") == 0
    for name, factor in (("same", 1.0), ("other", 1.5)):
        weights_of(Path("before"), f"{name}.safetensors", factor)
    here = ("mlp", "--workdir", "run")
    assert command(*here, init_from="before") == 0
    assert "init_from" in starts(Path("run"))[0]
    shutil.rmtree("before")
    forget_the_end(Path("run"))
    assert command(*here, init_from="before") == 0  # they are not needed with a checkpoint
    capsys.readouterr()
    forget_the_end(Path("run"))
    assert command(*here, init_from="other.safetensors") == 2
    assert "was started with other weights in config.init_from; " in error(capsys)
    assert command(*here, init_from="none") == 2
    assert "config.init_from: was 'before', is now None" in error(capsys)
    assert command(*here, "--evaluate", init_from="nowhere") == 0
    assert command(*here, init_from="same.safetensors") == 0
    assert [start["step"] for start in starts(Path("run"))] == [0, 2, 2]
    # Without a checkpoint the run would start anew, with other weights in the same place.
    shutil.rmtree(Path("run/checkpoints"))
    Path("other.safetensors").replace("same.safetensors")
    assert command(*here, init_from="same.safetensors") == 2
    assert "was started with other weights in config.init_from; " in error(capsys)


# ---- Conditions


def start(step, **changes):
    """A start in `run.json`."""
    return {
        "step": step,
        "commit": "a" * 40,
        "code": "c0de",
        "versions": {"jax": "0.10.2", "orbax-checkpoint": "0.12"},
        "devices": ["cpu cpu"] * 2,
        "processes": 1,
        "processor": "EPYC",
        "cpu_threads": 2,
        "xla_flags": "",
        "jax_settings": {},
        "variables": {},
        "compiler_options": {},
        "trials_in_one_program": 1,
        "config": {"mesh.devices": None, "mesh.params": "replicated", "mesh.model": 1},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"code": "new"}, "code: was 'c0de', is now 'new'"),
        ({"versions": {"jax": "0.11"}}, "jax: was '0.10.2', is now '0.11'"),
        ({"versions": {"jax": "0.10.2", "libtpu": "1"}}, "libtpu: was None, is now '1'"),
        ({"devices": ["cpu cpu"]}, "devices: was '2 of 2 cpu cpu', is now '1 of 1 cpu cpu'"),
        ({"cpu_threads": 1}, "cpu_threads: was 2, is now 1"),
        ({"processor": "Xeon"}, "processor: was 'EPYC', is now 'Xeon'"),
        ({"xla_flags": "--a=1"}, "xla_flags: was '', is now '--a=1'"),
        ({"compiler_options": {"xla_a": "1"}}, "xla_a: was None, is now '1'"),
        ({"trials_in_one_program": 4}, "trials_in_one_program: was 1, is now 4"),
        (
            {"jax_settings": {"jax_disable_jit": True}},
            "jax_disable_jit: was False, is now True",
        ),
        (
            {"variables": {"NVIDIA_TF32_OVERRIDE": "0"}},
            "NVIDIA_TF32_OVERRIDE: was None, is now '0'",
        ),
        (
            {"config": {**start(0)["config"], "mesh.devices": 1}},
            "devices: was '2 of 2 cpu cpu', is now '1 of 2 cpu cpu'",
        ),
        (
            {"config": {**start(0)["config"], "mesh.params": "fsdp"}},
            "config.mesh.params: was 'replicated', is now 'fsdp'",
        ),
    ],
)
def test_every_condition_is_compared(changes, line):
    assert provenance.differences(start(0), start(2)) == []
    assert provenance.differences(start(0), start(2, **changes)) == [line]


def test_conditions_that_change_no_bits_or_were_not_recorded_are_not_compared():
    other = start(2, versions={"jax": "0.10.2", "orbax-checkpoint": "9"}, commit="b" * 40)
    assert provenance.differences(start(0), other) == []
    gpus = {"devices": ["gpu H100"] * 2}
    assert provenance.differences(start(0, **gpus), start(2, **gpus, cpu_threads=9)) == []
    old = start(0)
    for name in ("code", "processor", "cpu_threads", "jax_settings", "variables"):
        del old[name]
    del old["trials_in_one_program"], old["compiler_options"]
    expected = ["commit: was 'aaaaaaaaaaaa', is now 'bbbbbbbbbbbb'"]
    assert provenance.differences(old, start(2, commit="b" * 40)) == expected


def test_only_starts_whose_updates_are_kept_are_compared():
    first, second = start(0), start(4, xla_flags="--a=1")

    def compared(step, *starts):
        return identity.other_conditions([*starts], start(step))

    assert compared(4, first) == ""
    assert compared(8, first, second) == (
        "was trained in other conditions, which may change its bits: xla_flags: was '--a=1', is "
        "now ''"
    )
    assert compared(4, first, second) == ""  # the second start made no checkpoint
    assert compared(0, second, second) == ""  # a run that begins again


def test_conditions_of_several_runs_are_compared_with_the_first():
    plain, other = [start(0)], [start(0, xla_flags="--a=1"), start(0), start(4, cpu_threads=1)]
    assert identity.mixed_conditions([]) == identity.mixed_conditions([plain, plain]) == ""
    mixed = "cpu_threads: was 2, is now 1 (1 of 3 starts)"  # the first start has no updates
    assert identity.mixed_conditions([plain, other]) == mixed


def test_a_restart_and_an_evaluation_in_other_conditions_say_so(command, monkeypatch, capsys):
    assert command("linear", "--workdir", "run") == 0
    forget_the_end(Path("run"))
    assert "other conditions" not in capsys.readouterr().err
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("PJRT_NPROC", "5")
    monkeypatch.setattr(provenance, "_code", lambda: starts(Path("run"))[0]["code"])
    said = (
        "WARNING: run was trained in other conditions, which may change its bits: "
        "NVIDIA_TF32_OVERRIDE: was None, is now '0'"
    )
    for flags in (["--evaluate"], []):
        assert command("linear", "--workdir", "run", *flags) == 0
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "other conditions" in x]
        assert line.replace("cpu_threads: was 2, is now 5; ", "") == said
    assert starts(Path("run"))[1]["variables"] == {"NVIDIA_TF32_OVERRIDE": "0"}
