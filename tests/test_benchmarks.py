"""The table of benchmarks and the numbers of the documents, computed from the recorded files.

The sentences of the documents must contain the numbers.
"""

import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import results_table  # noqa: E402
from cv_jax.devices import compile_options  # noqa: E402


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
    names = ("vit_ti16", "resnet20_cifar", "lenet5")
    vit, resnet, lenet = (found[f"configs/{name}.py"] for name in names)
    yield (
        f"ends {vit['warm_seconds']:.1f} s after the start instead of {vit['cold_seconds']:.1f} s, "
        f"that of ResNet-20 after {resnet['warm_seconds']:.1f} s instead of "
        f"{resnet['cold_seconds']:.1f} s, that of LeNet-5 after {lenet['warm_seconds']:.1f} s "
        f"instead of {lenet['cold_seconds']:.1f} s"
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


def levers_sentences():
    record = recorded("levers.json")
    for name, row in record["pooling"].items():
        library, gather = (statistics.median(row["milliseconds"][k]) for k in ("library", "gather"))
        yield f"| {name} | {library:.0f} | {gather:.0f} | {row['ratio']:.1f} |"
    for name, shown in (
        ("lenet5", "LeNet-5"),
        ("resnet18", "ResNet-18"),
        ("resnet20_cifar", "ResNet-20 (CIFAR)"),
        ("vgg11_bn", "VGG-11 with batch normalisation"),
        ("alexnet", "AlexNet"),
        ("vit_ti16", "ViT-Ti/16"),
        ("swin_t", "Swin-T"),
    ):
        row = record["steps"][name]
        speeds, ratios = row["images_per_second"], row["ratios"]
        both = "both" if "both" in speeds else "options"
        ends = (f"{statistics.median(speeds[k]):,.1f}" for k in ("neither", both))
        pooling = f"{ratios['pooling']:.2f}" if "pooling" in ratios else ""
        cells = (*ends, pooling, f"{ratios['options']:.2f}", f"{ratios[both]:.2f}")
        yield f"| {shown}, {row['batch']} | {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_options_of_the_compiler_are_those_of_the_record():
    record = recorded("levers.json")
    assert compile_options.MEASURED[record["versions"]["jaxlib"]] == record["options"]


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


def augmentation_page_sentences():
    found = recorded("augmentation.json")["augmentation"]["DeiT"]
    share, milliseconds = 100 * found["share_of_step"], found["ms_an_image"]
    yield (
        f"costs {share:.1f} % of a training step of ViT-B/16 on two CPU cores, "
        f"{milliseconds:.0f} ms per image"
    )


def sweep_sentences():
    slots, together = recorded("sweep_slots.json"), recorded("sweep_vmap.json")
    idle = 1 - slots["used_seconds"] / slots["slot_seconds"]
    between = slots["idle_share_between_trials"]
    yield f"idle for {100 * idle:.1f} % of the time: {100 * between:.1f} % between trials"
    whole = together["separate_seconds"] / together["together_seconds"]
    steps = together["separate_steps_seconds"] / together["together_steps_seconds"]
    yield f"finish {whole:.1f} times sooner than one after the other"
    yield f"the steps alone are {steps:.1f} times as fast"


def hosts_sentences():
    found = recorded("agreement.json")
    word, collective = 1e3 * found["word_seconds"], 1e3 * found["collective_seconds"]
    yield f"takes {word:.2f} ms through the coordination service and {collective:.2f} ms as a"


def distillation_sentences():
    found = recorded("distillation.json")

    def interval(values, scale=100):
        return f"{scale * statistics.mean(values):.1f} ± {scale * statistics.stdev(values):.1f}"

    labels = found["student_from_labels_mixed"]["values"]
    teacher = found["student_from_teacher"]["values"]
    gains = [b - a for a, b in zip(labels, teacher, strict=True)]
    assert min(gains) > 0
    yield f"reaches {interval(labels)} % from mixed labels and {interval(teacher)} % with LeNet-5"
    yield f"The gain is {interval(gains)} points"


def reproducibility_sentences():
    found = recorded("faults.json")
    yield f"{found['faults']} faults struck {found['runs']} runs"


@pytest.mark.parametrize(
    ("page", "sentences"),
    [
        ("docs/augmentation.md", augmentation_page_sentences),
        ("docs/sweeps.md", sweep_sentences),
        ("docs/several_hosts.md", hosts_sentences),
        ("docs/training.md", distillation_sentences),
        ("docs/reproducibility.md", reproducibility_sentences),
        ("docs/performance.md", start_sentences),
        ("docs/performance.md", loop_sentences),
        ("docs/performance.md", loading_sentences),
        ("docs/performance.md", older_loading_sentences),
        ("docs/performance.md", augmentation_sentences),
        ("docs/performance.md", memory_sentences),
        ("docs/performance.md", gpu_sentences),
        ("docs/performance.md", levers_sentences),
        ("README.md", faults_sentences),
    ],
)
def test_the_numbers_of_a_page_are_the_recorded_ones(page, sentences):
    text = flat(page)
    for sentence in sentences():
        assert sentence in text
