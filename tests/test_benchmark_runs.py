"""Benchmarks: how their processes take turns, their summaries, the plan for a GPU, small runs."""

import json
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cv_jax import models

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    gpu,
    growth,
    kernels,
    levers,
    loader_scaling,
    regressions,
    run_checks,
    step,
    step_cases,
    timing,
    turns,
)

# ---- Turns


def job(name, code, seconds=20.0, **facts):
    words = "import time, sys; from benchmarks import turns\n" + code
    return turns.Job(name, (sys.executable, "-c", words), seconds, facts)


HOLD = "turns.hold_device(); turns.report(a=1)"


def scheduled(jobs, minutes=1.0, overlap=True):
    rows = []
    schedule = turns.Turns(rows.append, minutes, overlap)
    for each in jobs:
        schedule.take(each)
    schedule.finish()
    return rows


def test_measurements_do_not_overlap_but_preparations_do(tmp_path):
    """The first measurement ends only when the second process is prepared."""
    sign = str(tmp_path / "prepared")
    wait = f"import os\nwhile not os.path.exists({sign!r}): time.sleep(0.01)\n"
    first = f"turns.hold_device(); a = time.time()\n{wait}turns.report(b=time.time())"
    second = f"open({sign!r}, 'w'); turns.hold_device(); turns.report(a=time.time())"
    first, second = scheduled([job("first", first, kind=1), job("second", second)])
    assert (first["name"], first["kind"], second["name"]) == ("first", 1, "second")
    assert second["a"] >= first["b"]
    assert first["beside"] == ["second"]


def test_without_overlap_a_job_starts_after_the_end_of_the_last():
    hold = "a = time.time(); turns.hold_device(); turns.report(a=a, b=time.time())"
    first, second = scheduled([job("first", hold), job("second", hold)], overlap=False)
    assert second["a"] >= first["b"]
    assert "beside" not in first


def test_a_failed_or_slow_job_leaves_a_line_and_the_others_go_on():
    slow = "turns.hold_device(); turns.report(part=1); time.sleep(60)"
    began = time.monotonic()
    rows = scheduled([job("wrong", "sys.exit('no such thing')"), job("slow", slow, 0.5)])
    rows += scheduled([job("late", HOLD)], minutes=0)
    assert time.monotonic() - began < 20
    assert [row["name"] for row in rows] == ["wrong", "slow", "slow", "late"]
    errors = [row.get("error") for row in rows]
    assert errors == ["no such thing", None, "stopped at its limit", "no time left"]
    assert rows[1]["part"] == 1


def test_children_of_a_slow_job_end_with_it(tmp_path):
    file = tmp_path / "pid"
    child = "import subprocess; turns.hold_device(); p = subprocess.Popen(['sleep', '60']); "
    code = f"{child} open({str(file)!r}, 'w').write(str(p.pid)); p.wait()"
    scheduled([job("parent", code, 1.0)])
    status = Path(f"/proc/{file.read_text()}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


# ---- Results


def test_the_summary_has_medians_of_medians():
    def row(side, *speeds, **more):
        return {"case": "net", "side": side, "images_per_second": list(speeds), **more}

    rows = [
        row("cv_jax", 1, 9, 10, variant=""),
        row("cv_jax", 11, 11, 11, variant=""),
        row("cv_jax", 12, 30, 40, variant="cudnn"),
        row("peer compiled", 20, 20, 20),
        row("peer eager", 5, 5, 5),
        {"case": "net", "side": "peer eager", "error": "stopped at its limit"},
    ]
    found = step.summary(rows)["net"]
    assert found == {
        **{"cv_jax": 10, "cv_jax cudnn": 30, "peer compiled": 20, "peer eager": 5, "ratio": 1.5}
    }
    assert "ratio" not in step.summary(rows[:3])["net"]


def test_speeds_count_the_examples_of_all_steps(monkeypatch):
    clock, made = [0.0], []

    def one_step():
        clock[0] += 0.02
        made.append(1)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    found = timing.speeds(one_step, lambda _: None, batch=8, seconds=0.1, repetitions=2)
    assert found == pytest.approx([400, 400])
    assert len(made) == 1 + 2 * 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("loop_add_fusion_12", "loop_add_fusion"),
        ("input_reduce_fusion.3", "input_reduce_fusion"),
        ("void cutlass::Kernel<float, 4>(Params)", "cutlass::Kernel"),
        ("nvjet_sm90_tst_192x192_64x3", "nvjet_sm90_tst_192x192_64x3"),
    ],
)
def test_kernels_are_grouped_by_name(name, kind):
    assert kernels.kind_of(name) == kind


def test_ratios_compare_turns_of_one_round():
    """The machine is twice as slow in the second round, and the third turn of "b" is disturbed."""
    found = {"a": [4.0, 8.0, 4.0], "b": [2.0, 4.0, 40.0], "c": [4.0, 8.0, 4.0]}
    assert levers.ratios(found) == {"b": 2.0, "c": 1.0}


@pytest.fixture
def clock(monkeypatch):
    """Returns `work(seconds)`, which moves the clock of the benchmarks forward."""
    now = [0.0]
    fake = types.SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    for module in (levers, regressions):
        monkeypatch.setattr(module, "time", fake)
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_steps_take_turns(clock):
    order = []
    steps = {name: lambda name=name: order.append(name) or clock(2.0) for name in "ab"}
    assert levers.turns(steps, 3, 0.0, levers.time.perf_counter) == {"a": [2.0] * 3, "b": [2.0] * 3}
    assert "".join(order) == "aabb" + "ab" * 3


def test_the_shortest_times_count(clock):
    """After two calls that warm up; short functions are repeated for `SHORT` seconds."""
    times = iter([9.0, 3.0, 5.0, 2.0, 7.0])
    assert regressions.shortest(lambda: clock(next(times)), lambda: clock(0.25), 3) == [2.0, 0.25]
    calls = []
    quick = regressions.SHORT / 4
    regressions.shortest(lambda: calls.append(0) or clock(quick), lambda: clock(1.0), 1)
    assert len(calls) == 2 + 4


def judged(power, constant=0.0, **options):
    sizes = (10, 100, 1000, 10000)
    rows = [{"processor_seconds": constant + 1e-4 * n**power} for n in sizes]
    quantity = growth.Quantity(sizes, sizes, 3, {"processor_seconds": 1.0}, None, **options)
    return growth.judged(quantity, sizes, rows)


def test_exponents_are_those_of_a_power():
    found = judged(1.5)["exponents"]["processor_seconds"]
    assert found == {"measured": 1.5, "expected": 1.0, "worse": True}
    # The constant cost counts at the smallest size only, which is not in the fit.
    found = judged(1.0, constant=5e-4)["exponents"]["processor_seconds"]
    assert found["measured"] == pytest.approx(1.0, abs=0.02)
    assert not found["worse"]


@pytest.mark.parametrize(("limit", "slow"), [(1e-3, False), (1e-5, True)])
def test_the_time_of_a_thousand_is_compared_with_its_limit(limit, slow):
    found = judged(1.0, limit=limit)
    assert found["seconds_of_a_thousand"] == 0.1
    assert found["too_slow"] is slow


def test_the_cores_for_a_speed_are_those_of_the_first_count_that_reaches_it():
    def row(source, count, speed):
        return {"source": source, "workers": 0, "threads": count, "images_a_second": speed}

    rows = [row("records", n, s) for n, s in ((1, 900.0), (2, 1600.0), (4, 3200.0), (8, 3300.0))]
    rows += [row("jpegs", 1, 300.0), row("jpegs", 2, 500.0)]
    found = loader_scaling.summary(rows, 3000)
    assert found["records, threads"]["cores_wanted"] == 4  # 800 images a core
    assert found["records, threads"]["speed_up"] == 3.67
    assert found["jpegs, threads"]["cores_wanted"] == 12  # 250 images a core
    assert loader_scaling.doubled(6) == [1, 2, 4, 6]
    assert loader_scaling.doubled(16) == [1, 2, 4, 8, 16]


def test_cases_are_ordered_once():
    for device in ("cpu", "gpu"):
        assert sorted(step_cases.order(device)) == sorted(step_cases.CASES)


@pytest.mark.parametrize(
    ("name", "library"),
    [("lenet5", "torch"), ("resnet20_cifar", "torch"), ("mae_vit_l16", "transformers")],
)
def test_a_network_of_the_peer_has_the_size_of_ours(name, library):
    pytest.importorskip("torch")
    pytest.importorskip(library)
    from benchmarks import peers

    case = step_cases.CASES[name]
    fields = {} if case.masked else {"num_classes": case.classes}
    model = models.create(case.model, **fields)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    image = jnp.zeros((1, case.size, case.size, 3))
    ours = jax.eval_shape(lambda: model.init(keys, image))["params"]
    theirs = [p for p in peers.make_network(case).parameters() if p.requires_grad]
    assert sum(p.numel() for p in theirs) == sum(x.size for x in jax.tree.leaves(ours))


class Recorder:
    """Stands for `turns.Turns`; every job has the device at once."""

    def __init__(self):
        self.order, self.jobs = [], {}

    def take(self, job):
        self.order.append(job.name)
        self.jobs[job.name] = job

    def start(self, job, waits=False):
        self.take(job)
        self.order[-1] += " (beside)"
        return types.SimpleNamespace(holds=types.SimpleNamespace(is_set=lambda: True))


@pytest.mark.parametrize("cores", [2, 16])
def test_the_plan_has_the_most_important_first(monkeypatch, tmp_path, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    flags = types.SimpleNamespace(
        device="gpu", tiny=False, peer_python="python", stages=gpu.STAGES, cases=None
    )
    schedule = Recorder()
    gpu.run(schedule, flags, tmp_path)
    order = [name.removesuffix(" (beside)") for name in schedule.order]
    assert len(set(order)) == len(order)
    assert order[0] == "environment"
    assert order[-1] == "loader"
    ours = [name for name in order if " cv_jax" in name]
    assert ours[0] == "vit_b16 cv_jax cudnn"
    assert [name.split()[0] for name in ours] == sorted(
        (name.split()[0] for name in ours), key=[*gpu.FIRST, *gpu.THEN].index
    )
    assert order.index("repeat lenet5") < order.index("attention") < order.index("families")
    peers = {name.split()[0] for name in order if name.endswith("peer compiled")}
    assert peers == {*gpu.FIRST, *gpu.THEN}
    beside = [name for name in schedule.order if name.endswith("(beside)")]
    if cores == 2:
        assert not beside
    else:
        # The CPU's own runs have the upper half of the cores.
        assert beside[0] == "families on the CPU (beside)"
        assert schedule.jobs["families on the CPU"].cores == tuple(range(8, 16))
        assert schedule.jobs["families on the CPU"].variables["JAX_PLATFORMS"] == "cpu"
        assert sum("peer compiled" in name for name in beside) >= 5


def test_losses_of_gpu_and_cpu_are_compared():
    def row(config, where, *losses):
        return {"stage": "families", "config": config, "where": where, "losses": list(losses)}

    rows = [
        row("a", "gpu", 2.0, 1.1),
        row("a", "cpu", 2.0, 1.0),
        row("b", "gpu", 1.0),
        row("c", "cpu"),
        {"stage": "families", "config": "c", "where": "gpu", "error": "stopped at its limit"},
    ]
    assert gpu.agreement(rows) == pytest.approx({"a": 0.1})


@pytest.mark.parametrize(
    ("second", "found"),
    [
        ([1.0, 2.0], {"equal": True, "first_difference": None}),
        ([1.0, 2.5], {"equal": False, "first_difference": 2}),
        ([1.0], {"equal": False, "first_difference": None}),
    ],
)
def test_the_first_different_loss_is_found(second, found):
    assert run_checks.differing([1.0, 2.0], second) == found


# ---- Small runs


def run(*words, timeout=300):
    process = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_steps_are_measured_without_torch(tmp_path):
    file = tmp_path / "step.json"
    words = ["vit_b16", "--device=cpu", "--tiny", "--rounds=1", "--sides=cv_jax", "--profile"]
    run("benchmarks.step", *words, f"--out={file}")
    result = json.loads(file.read_text())
    (row,) = result["rows"]
    assert result["summary"]["vit_b16"]["cv_jax"] == statistics.median(row["images_per_second"])
    assert result["environment"]["matrix_product"]["tflops"] > 0
    # Patch embedding of 4 patches; one block on 5 tokens of width 32; the head of 3 classes.
    patches = 4 * 16 * 16 * 3 * 32
    block = 5 * 32 * (3 * 32 + 32 + 2 * 128) + 2 * 5 * 5 * 32
    assert row["flops_per_image"] == 6 * (patches + block + 3 * 32)
    assert row["kernel_milliseconds"]
    assert min(row["compile_seconds"], row["peak_bytes"]) > 0


@pytest.mark.slow
def test_levers_are_measured(tmp_path):
    file = tmp_path / "levers.json"
    run("benchmarks.levers", "--tiny", "--rounds=2", "--seconds=0.01", f"--out={file}")
    result = json.loads(file.read_text())
    assert result["steps"]["lenet5"]["ratios"].keys() == {"options"}
    assert result["pooling"].keys() == levers.POOLINGS.keys()
    assert all(row["ratio"] > 0 for row in result["pooling"].values())


@pytest.mark.slow
def test_the_plan_for_a_gpu_runs_on_a_cpu(tmp_path):
    file = tmp_path / "gpu.jsonl"
    stages = ["environment", "step", "repeat", "attention"]
    run("benchmarks.gpu", *stages, "--device=cpu", "--tiny", "--cases=lenet5", f"--out={file}")
    rows = {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert {"environment", "repeat lenet5", "attention", "lenet5 cv_jax"} <= rows.keys()
    assert rows["repeat lenet5"]["equal"]
    assert len(rows["repeat lenet5"]["runs"][0]["losses"]) == 3
    assert rows["attention"]["implementations"]["xla"]["difference"] < 1e-6
    assert "GPU" in rows["attention"]["implementations"]["cudnn"]["error"] or (
        "bfloat16" in rows["attention"]["implementations"]["cudnn"]["error"]
    )


@pytest.mark.slow
def test_growth_is_measured(tmp_path):
    file = tmp_path / "growth.json"
    names = ["folder", "planning", "listing", "resuming", "reporting", "swin_image_size", "classes"]
    for words in (names[:-1], names[-1:]):  # the second call adds its quantity
        run("benchmarks.growth", *words, "--tiny", "--repetitions=1", f"--out={file}")
    result = json.loads(file.read_text())
    assert list(result["quantities"]) == names
    for name, entry in result["quantities"].items():
        assert [row["size"] for row in entry["rows"]] == list(growth.QUANTITIES[name].tiny)
        assert entry["exponents"].keys() == growth.QUANTITIES[name].expected.keys()


@pytest.mark.slow
def test_the_loader_is_measured(tmp_path):
    file = tmp_path / "loader.json"
    words = ["--counts=1", "--images=64", "--seconds=0.2", f"--out={file}"]
    run("benchmarks.loader_scaling", *words)
    result = json.loads(file.read_text())
    names = [
        f"{place}, {kind}" for kind in ("threads", "workers") for place in ("records", "jpegs")
    ]
    assert list(result["summary"]) == names
    for entry in result["summary"].values():
        assert entry["cores_wanted"] == -(-3000 // entry["images_a_second"]["1"])
