"""The table of `benchmarks/README.md`, made from the recorded files.

    python benchmarks/results_table.py [--check]

Every benchmark has one line for each recorded file: its command, the result in few words, commit
and device. `--check` compares with the page instead of writing it.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
TWO_CORES = "2 CPU cores"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A recorded file.

    Attributes:
      file: its path under benchmarks/results; `None` if nothing is recorded.
      command: the command, where the file does not have it.
      result: `content of the file → result in few words`.
      device: where the file does not have it.
      commit: where the file does not have it; "" if unknown.
    """

    file: str | None
    command: str
    result: Callable[[Any], str] = lambda _: "–"
    device: str = TWO_CORES
    commit: str = ""


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def collectives(record: dict) -> str:
    found = {(row["params"], row["devices"]): row["collectives"] for row in record["rows"]}

    def sent(kind, params):
        return found[params, 8].get(kind, {}).get("payload_bytes", 0) / 1e6

    return (
        f"8 devices: {sent('all-reduce', 'replicated'):.1f} MB reduced; FSDP: "
        f"{sent('all-reduce', 'fsdp'):.1f} MB reduced, {sent('all-gather', 'fsdp'):.1f} MB gathered"
    )


def initialisation(record: dict) -> str:
    parts = [
        f"{row['config']} {row['few_compile_seconds']:.1f} instead of "
        f"{row['all_compile_seconds']:.1f} s"
        for row in record["rows"]
    ]
    return "; ".join(parts)


def loader(record: dict) -> str:
    ratios = record["ratios"]
    jpeg, records = (
        ratios[f"ours {kind} bilinear / torch bilinear"]["clock"] for kind in ("originals", "q90")
    )
    other = ratios["ours originals bilinear / tf bilinear"]["processor"]
    return (
        f"bilinear: {jpeg:.2f} × Pillow for JPEGs, {records:.2f} × for records; {other:.2f} × "
        "tf.data (processor time)"
    )


def scanned(lines: list[dict]) -> str:
    kept = {(line["layers"], line["remat_policy"]): line["temporary_gib"] for line in lines}
    unrolled, full = kept["unrolled", "none"], kept["scanned", "full"]
    return f"{unrolled:.1f} GiB unrolled, {full:.1f} GiB scanned and rematerialised"


def accuracies(record: dict) -> str:
    means = {Path(name).stem: entry["mean"] for name, entry in record.items()}
    return ", ".join(f"{name} {percent(mean)}" for name, mean in means.items())


def speed_of(lines: list[dict], case: str, side: str, variant: Any) -> float:
    """Return the median images per second of a measurement in `gpu/h200.jsonl`."""
    for line in lines:
        names = (line.get("case"), line.get("side"), line.get("variant"))
        if line["stage"] == "speed" and names == (case, side, variant) and "rounds" in line:
            return statistics.median(line["rounds"])
    raise KeyError((case, side, variant))


PADDED = {"attention_implementation": "cudnn", "pad": 2}
# Network → the variant of `cv_jax` in `gpu/h200.jsonl` that is compared with timm.
ON_GPU = {"vit_b16": PADDED, "vit_l16": PADDED, "resnet50": {}, "swin_t": {}}


def on_gpu(lines: list[dict]) -> str:
    ratios = {
        case: speed_of(lines, case, "ours", variant) / speed_of(lines, case, "torch", "compile")
        for case, variant in ON_GPU.items()
    }
    return "cv_jax ÷ timm compiled: " + ", ".join(f"{c} {r:.2f}" for c, r in ratios.items())


def pointing(record: dict) -> str:
    shares: dict[str, list[float]] = {}
    for run in record["runs"]:
        for method in run["methods"]:
            if method["method"] == "grad_cam":
                shares.setdefault(run["model"], []).append(method["inside_the_box"])
    means = ", ".join(f"{m} {percent(statistics.mean(own))}" for m, own in shares.items())
    return f"Grad-CAM inside: {means}"


def levers(record: dict) -> str:
    pooling = [f"{name} {row['ratio']:.1f}" for name, row in record["pooling"].items()]
    steps = [
        f"{name} {row['ratios'].get('both', row['ratios']['options']):.2f}"
        for name, row in record["steps"].items()
    ]
    return (
        f"steps, with both changes ÷ without: {', '.join(steps)}; "
        f"max pooling, gather ÷ library: {'; '.join(pooling)}"
    )


def regressions(record: dict) -> str:
    (scores,) = [entry["scores"] for entry in list(record["processors"].values())[-1:]]
    return "per thousand products: " + ", ".join(f"{n} {s:,.0f}" for n, s in scores.items())


def growth(record: dict) -> str:
    """Exponents, each with the expected one."""
    parts = []
    for name, entry in record["quantities"].items():
        measured = [
            f"{measure.replace('_', ' ')} {found['measured']:.2f} ({found['expected']:g})"
            for measure, found in entry["exponents"].items()
        ]
        parts.append(f"{name.replace('_', ' ')}: {', '.join(measured)}")
    return "; ".join(parts)


def loader_scaling(record: dict) -> str:
    parts = [
        f"{name} {entry['a_core']:,.0f} images/s and core, {entry['cores_wanted']} cores for "
        f"{record['wanted']:,.0f}"
        for name, entry in record["summary"].items()
    ]
    return f"{record['cores']} cores: {'; '.join(parts)}"


def strips(record: dict) -> str:
    return "accuracy " + ", ".join(percent(run["test"]["accuracy"]) for run in record["runs"])


BENCHMARKS: dict[str, list[Recorded]] = {
    "step": [Recorded(None, "python -m benchmarks.step")],
    "gpu": [
        Recorded("gpu/h200.jsonl", "python -m benchmarks.gpu --minutes 8", on_gpu, "NVIDIA H200")
    ],
    "levers": [Recorded("levers.json", "", levers)],
    "regressions": [Recorded("regressions.json", "", regressions)],
    "growth": [Recorded(None, "python -m benchmarks.growth", growth)],
    "attention": [Recorded(None, "python -m benchmarks.attention")],
    "run_checks": [Recorded(None, "python -m benchmarks.run_checks repeat lenet5")],
    "loader_scaling": [Recorded(None, "python -m benchmarks.loader_scaling", loader_scaling)],
    "input_pipeline": [
        Recorded(
            "input_pipeline.json",
            "python benchmarks/input_pipeline.py --images 512",
            loader,
            "1 CPU core",
        ),
        Recorded(
            "input_pipeline_other_machine.json",
            "python benchmarks/input_pipeline.py",
            loader,
            "1 CPU core of another computer",
        ),
    ],
    "augmentation": [
        Recorded(
            "augmentation.json",
            "python benchmarks/augmentation.py --batch_size 8 --dtype float32",
            lambda r: f"DeiT's: {percent(r['augmentation']['DeiT']['share_of_step'])} of a step",
        )
    ],
    "loop_overhead": [
        Recorded(
            "loop_overhead.json",
            "python benchmarks/loop_overhead.py",
            lambda r: f"loop ÷ bare step: {r['ratio']:.2f}",
        )
    ],
    "start": [
        Recorded(
            "start.json",
            "",
            lambda r: "; ".join(
                f"{Path(name).stem} {c['cold_seconds']:.1f} s cold, {c['warm_seconds']:.1f} s warm"
                for name, c in r["configs"].items()
            ),
        ),
    ],
    "initialisation": [
        Recorded(
            "initialisation.json",
            "python benchmarks/initialisation.py --rounds 1",
            initialisation,
        )
    ],
    "huge_pages": [
        Recorded(
            "huge_pages.json",
            "python benchmarks/huge_pages.py",
            lambda r: f"{r['ratio']:.2f} times as fast",
        )
    ],
    "scan_layers": [
        Recorded(
            "scan_layers.txt",
            "python benchmarks/scan_layers.py vit_l16 8",
            scanned,
            "compiled on a CPU",
        )
    ],
    "agreement": [
        Recorded(
            "agreement.json",
            "python benchmarks/agreement.py",
            lambda r: (
                f"{1e3 * r['word_seconds']:.2f} ms; {1e3 * r['collective_seconds']:.2f} ms as a "
                "collective"
            ),
            "2 processes on one computer",
        )
    ],
    "collectives": [
        Recorded(f"collectives_{name}.json", "", collectives, "8 simulated devices")
        for name in ("vit_b16", "vit_ti16", "resnet")
    ],
    "scaling": [Recorded(None, "python benchmarks/scaling.py")],
    "sweep_vmap": [
        Recorded(
            "sweep_vmap.json",
            "",
            lambda r: f"{r['ratio']:.1f} times as fast; steps {r['steps_ratio']:.1f} times",
        )
    ],
    "sweep_slots": [
        Recorded("sweep_slots.json", "", lambda r: f"slots idle for {percent(r['idle_share'])}")
    ],
    "sweep_faults": [
        Recorded(
            "sweep_faults.json",
            "",
            lambda r: (
                f"{r['trials']} trials, {len(r['kills'])} kills, "
                f"{len(r['differences'])} differences"
            ),
        )
    ],
    "faults": [
        Recorded(
            "faults.json",
            "",
            lambda r: (
                f"{r['faults']} faults in {r['runs']} runs: {r['lost_results']} lost, "
                f"{r['wrong_results']} wrong results"
            ),
        )
    ],
    "reliability": [
        Recorded(
            "reliability.json",
            "",
            lambda r: (
                f"{r['faults']:,} faults: {r['wrong']} wrong, {r['lost']} lost, {r['stuck']} stuck"
            ),
        )
    ],
    "soak": [
        Recorded(
            "soak.json",
            "",
            lambda r: (
                f"{r['steps']:,} steps, {sum(r['readings']):,} readings: "
                + ("; ".join(r["objections"]) or "memory flat")
            ),
        )
    ],
    "accuracy": [
        Recorded("digits.json", "python benchmarks/accuracy.py CONFIG… --seeds 3", accuracies)
    ],
    "distillation": [
        Recorded(
            "distillation.json",
            "",
            lambda r: (
                f"{percent(r['student_from_teacher']['mean'])} instead of "
                f"{percent(r['student_from_labels_mixed']['mean'])}"
            ),
        )
    ],
    "pointing": [Recorded("experiments/pointing/pointing.json", "", pointing)],
    "strips": [Recorded("experiments/numbers/numbers.json", "", strips)],
}
# Modules that the benchmarks share.
PARTS = ("turns", "timing", "kernels", "environment", "step_cases", "step_product", "peers")
PARTS += ("fault_injection", "results_table", "trained_runs", "stored_faults", "moment_faults")
PARTS += ("data_faults", "trial_faults", "growth_models", "growth_hosts", "growth_sweeps")


def read(file: str) -> Any:
    """Return the content of a recorded file; of a file of lines the list of its objects."""
    text = (RESULTS / file).read_text()
    if file.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def commit_of(record: Any) -> str:
    """Return the commit in a record, or in its first entry that has one; "" without."""
    runs = record.get("runs") if isinstance(record, dict) else record
    inner = record.values() if isinstance(record, dict) else ()
    entries = [record, *inner, *(runs if isinstance(runs, list) else ())]
    entries = [entry for entry in entries if isinstance(entry, dict)]
    found = [entry["commit"] for entry in entries if entry.get("commit")]
    return found[0][:7] if found else ""


def rows() -> list[tuple[str, ...]]:
    """Return the cells of the table: command, last result, commit, device, file."""
    found = []
    for recordings in BENCHMARKS.values():
        for recorded in recordings:
            command, result, commit = recorded.command, "–", recorded.commit
            file, device = "–", "–"
            if recorded.file:
                device = recorded.device
                record = read(recorded.file)
                own = record.get("command") if isinstance(record, dict) else None
                command = (own or command).partition(" --output ")[0]
                result, commit = recorded.result(record), commit_of(record) or commit
                file = f"[{Path(recorded.file).name}](results/{recorded.file})"
            found.append((f"`{command}`", result, commit or "–", device, file))
    return found


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| command | last result | commit | device | file |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows())]) + "\n"


def main():
    """Write the table into the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    page = FOLDER / "README.md"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    new = before + BEGIN + table() + END + rest.split(END)[1]
    if flags.check:
        if new != text:
            print("benchmarks/README.md differs; run python benchmarks/results_table.py")
        return int(new != text)
    page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
