"""Benchmarks: their table, the numbers of the documents, and how their processes take turns.

The numbers are computed from the recorded files, and the sentences of the documents must contain
them.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cv_jax import models

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kernels, results_table, step, step_cases, timing, turns  # noqa: E402


def flat(page):
    """The text of a page without line breaks."""
    return " ".join((ROOT / page).read_text().split())


def recorded(file):
    return results_table.read(file)


def test_the_table_is_that_of_the_recorded_files():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert results_table.table() in text


def test_every_benchmark_is_in_the_table():
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.py")}
    assert files == {*results_table.BENCHMARKS, *results_table.PARTS}
    results = ROOT / "benchmarks" / "results"
    found = {str(file.relative_to(results)) for file in results.glob("*.*")}
    found |= {str(file.relative_to(results)) for file in results.rglob("*.jsonl")}
    shown = {r.file for recordings in results_table.BENCHMARKS.values() for r in recordings}
    assert found <= shown


def test_links_of_the_page_lead_somewhere():
    folder = ROOT / "benchmarks"
    links = re.findall(r"\]\(([^)\s]+)\)", (folder / "README.md").read_text())
    assert len(links) > 20
    for link in links:
        assert (folder / link).exists(), link


def start_sentences():
    found = recorded("start.json")["configs"]
    vit, resnet = found["configs/vit_ti16.py"], found["configs/resnet20_cifar.py"]
    yield (
        f"ends {vit['warm_seconds']:.1f} s after the start instead of {vit['cold_seconds']:.1f} s, "
        f"that of ResNet-20 after {resnet['warm_seconds']:.1f} s instead of "
        f"{resnet['cold_seconds']:.1f} s"
    )
    rows = {row["config"]: row for row in recorded("initialisation.json")["rows"]}
    for name, shown, instead in (
        ("lenet5", "LeNet-5", " s instead of {} s"),
        ("resnet20_cifar", "ResNet-20", " instead of {} s"),
        ("vgg", "VGG", " instead of {} s"),
        ("vit_ti16", "ViT-Ti/16", " instead of {} s"),
        ("swin", "Swin", " instead of {} s"),
    ):
        few, whole = rows[name]["few_compile_seconds"], rows[name]["all_compile_seconds"]
        # "takes 1.2 s instead of 4.3 s for LeNet-5, 3.1 instead of 8.4 s for ResNet-20, …"
        yield f"{few:.1f}{instead.format(f'{whole:.1f}')} for {shown}"


def loop_sentences():
    loop = recorded("loop_overhead.json")
    medians = [statistics.median(loop[f"{kind}_seconds"]) for kind in ("loop", "bare")]
    yield f"takes {medians[0] / medians[1]:.2f} times as long as the bare jitted step"
    pages = recorded("huge_pages.json")
    means = [statistics.mean(pages[f"{kind}_pages"]) for kind in ("small", "huge")]
    yield f"is {means[0] / means[1]:.2f} times as fast with them"


def loading_sentences():
    ratios = recorded("input_pipeline.json")["ratios"]

    def row(name, *cells):
        return " | ".join([name, *(f"{cell:.1f}" for cell in cells)])

    for method in ("bilinear", "bicubic"):
        pillow = [
            ratios[f"ours {kind} {method} / torch {method}"]["clock"]
            for kind in ("originals", "q90", "raw")
        ]
        yield row(f"PyTorch DataLoader over Pillow | {method}", *pillow)
    tensorflow = "tf.data, fused decoding (processor time)"
    for method, shown in (("bilinear", "bilinear, antialiased"), ("linear", '`method="linear"`')):
        ratio = ratios[f"ours originals {method} / tf {method}"]["processor"]
        yield row(f"{tensorflow} | {shown}", ratio)
    other = [
        100 * (value["clock"] - 1) for name, value in ratios.items() if name.startswith("bare")
    ]
    yield f"takes {min(other):.0f} to {max(other):.0f} %"


def older_loading_sentences():
    ratios = recorded("input_pipeline_other_machine.json")["ratios"]

    def pillow(kind, method):
        return ratios[f"ours {kind} {method} / torch {method}"]["clock"]

    def other(method):
        return ratios[f"ours originals {method} / tf {method}"]["processor"]

    jpegs = [pillow("originals", method) for method in ("bilinear", "bicubic")]
    yield f"{jpegs[0]:.2f} and {jpegs[1]:.2f} for JPEGs"
    yield f"{pillow('q90', 'bilinear'):.1f} and {pillow('q90', 'bicubic'):.1f} for records"
    yield f"{pillow('raw', 'bilinear'):.1f} for raw records"
    yield f"{other('bilinear'):.2f} and {other('linear'):.2f} against tf.data"
    bare = ratios["bare bilinear / ours originals bilinear"]["clock"]
    yield f"{100 * (bare - 1):.0f} % for other work"


def memory_sentences():
    kept = {(x["layers"], x["remat_policy"]): x for x in recorded("scan_layers.txt")}
    for layers, policy in (
        *(("unrolled", "none"), ("unrolled", "full"), ("scanned", "none"), ("scanned", "dots")),
        *(("scanned", "dots_no_batch"), ("scanned", "full")),
    ):
        found = kept[layers, policy]
        shown = policy if policy == "none" else f"`{policy}`"
        seconds, memory = found["compile_seconds"], found["temporary_gib"]
        yield f"| {layers} | {shown} | {seconds:.1f} s | {memory:.1f} GiB |"


def gpu_sentences():
    lines = recorded("gpu/h200.jsonl")
    fields = {"cudnn": results_table.PADDED, "xla": {}}
    for shown, case, implementation, batch in (
        ("ViT-B/16", "vit_b16", "cudnn", 256),
        ("ViT-B/16", "vit_b16", "xla", 256),
        ("ViT-L/16", "vit_l16", "cudnn", 128),
        ("ResNet-50", "resnet50", "", 256),
        ("Swin-T", "swin_t", "", 256),
    ):
        ours = results_table.speed_of(lines, case, "ours", fields.get(implementation, {}))
        peer = results_table.speed_of(lines, case, "torch", "compile")
        field = f", `model.attention_implementation={implementation}`" if implementation else ""
        name = f"{shown}{field}, batch {batch}"
        yield f"| {name} | {ours:,.0f} | {peer:,.0f} | {ours / peer:.2f} |"


def augmentation_sentences():
    found = recorded("augmentation.json")["augmentation"]["DeiT"]
    share, milliseconds = 100 * found["share_of_step"], found["ms_an_image"]
    yield f"costs {share:.1f} % of a step of ViT-B/16, {milliseconds:.0f} ms per image"


def faults_sentences():
    found = recorded("faults.json")
    assert found["lost_results"] == found["wrong_results"] == 0
    yield f"A recorded campaign of {found['faults']} faults in {found['runs']} runs had no lost"


@pytest.mark.parametrize(
    ("page", "sentences"),
    [
        ("docs/performance.md", start_sentences),
        ("docs/performance.md", loop_sentences),
        ("docs/performance.md", loading_sentences),
        ("docs/performance.md", older_loading_sentences),
        ("docs/performance.md", augmentation_sentences),
        ("docs/performance.md", memory_sentences),
        ("docs/performance.md", gpu_sentences),
        ("README.md", faults_sentences),
    ],
)
def test_the_numbers_of_a_page_are_the_recorded_ones(page, sentences):
    text = flat(page)
    for sentence in sentences():
        assert sentence in text


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
