"""Train the reader of digit strips with several seeds; measure reading, attention and decoding.

    python benchmarks/strips.py --runs DIR --seeds 3 --output FILE

Each seed is the command `python launch.py --config configs/image_transformer.py:numbers` in its own
process, with its wall time and processor time (start, compilation and evaluations included).
Measured for each run:

- the metrics of `sequence_metrics` on the splits `test` and `longer`, greedy and beam search;
- cross-attention on the test strips that greedy search reads correctly: the share of strips in
  which the centre of what a token reads moves to the right from each digit to the next, for every
  layer of the decoder (mean of its heads), and the mean distance of the centre from the middle of
  the digit in pixels;
- the time to write five digits for 64 strips (fastest of several) with the cache, by a pass of the
  decoder over all tokens for every token, and by a pass of the whole model for every token, which
  keeps nothing; and whether the tokens are equal.

A folder DIR/SEED that exists is not trained again, and has no times; a seed in FILE is kept.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cv_jax.augment.batch import normalise
from cv_jax.data import strips
from cv_jax.evaluation import sequence_metrics
from cv_jax.evaluation.sequence import make_decoding_step
from cv_jax.inspect import attention
from cv_jax.interop import trained as nets
from cv_jax.models.decoder import BOS, EOS, PAD
from cv_jax.models.decoding import greedy
from cv_jax.run import json_files

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/image_transformer.py:numbers"
BATCH, DIGITS, REPEATS = 64, 5, 7


def train(seed: int, path: Path, overrides: list[str]) -> dict:
    """Train one run; return its wall time and processor time in seconds."""
    command = [sys.executable, str(ROOT / "launch.py"), "--config", CONFIG, *overrides]
    command += [f"--config.seed={seed}", "--workdir", str(path)]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"seed {seed} failed")
    wall, processor = time.monotonic() - started, used.ru_utime + used.ru_stime
    return {"wall_seconds": round(wall, 1), "processor_seconds": round(processor, 1)}


def read(net, split: str) -> dict[str, np.ndarray]:
    """Return truth, written tokens, images and teacher-forced inputs of a split."""
    c = net.config.eval
    make = make_decoding_step(net.config, net.model, c.max_length, c.beams, c.length_penalty)
    step, parts = jax.jit(make), []
    source = nets.split_source(net, None, split)
    for batch in nets.batches(net, source, BATCH):
        found = {**step(net.weights.variables, batch), "pixels": batch["image"]}
        kept = batch["position"] < len(source)
        parts.append({name: np.asarray(x)[kept] for name, x in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scores(found: dict) -> dict:
    """Return the metrics of a split, whole and by length."""
    written = {name: found[name] for name in ("greedy", "beam")}
    return {
        **sequence_metrics.summary(found["truth"], written),
        "by_length": sequence_metrics.by_length(found["truth"], written),
    }


def pointing(net, found: dict) -> list[dict]:
    """Return for each decoder layer how its cross-attention follows the digits."""
    right = np.flatnonzero((found["greedy"] == found["truth"]).all(axis=1))
    images = normalise(net.config, jnp.asarray(found["pixels"][right], jnp.float32))
    before = np.pad(found["truth"][right][:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    layers = attention.layers(net.model, net.weights.variables, images, jnp.asarray(before))
    spans = [np.array(strips.example("test", int(index)).spans) for index in right]
    rows = []
    for layer in layers:
        if not layer.name.endswith(attention.CROSS):
            continue
        centres = [
            own[: len(span)]
            for own, span in zip(attention.centre_columns(layer), spans, strict=True)
        ]
        distances = [
            np.abs(own - span.mean(axis=1)).mean() for own, span in zip(centres, spans, strict=True)
        ]
        rows.append(
            {
                "layer": layer.name,
                "strips": len(right),
                "moves_to_the_right": float(np.mean([(np.diff(x) > 0).all() for x in centres])),
                "mean_distance_in_pixels": float(np.mean(distances)),
            }
        )
    return rows


def timing(net, found: dict) -> dict:
    """Return the times to write five digits for a batch, with and without the cache."""
    model, variables, length = net.model, net.weights.variables, DIGITS + 1
    chosen = np.flatnonzero(sequence_metrics.lengths(found["truth"]) == DIGITS)[:BATCH]
    images = normalise(net.config, jnp.asarray(found["pixels"][chosen], jnp.float32))

    @jax.jit
    def cached(images):
        return greedy(model, variables, images, max_length=length)

    @jax.jit
    def whole(images):
        """Encode once, as with the cache; pass all tokens through the decoder for every token."""
        memory, _ = model.apply(variables, images, False, method="_encode")

        def extend(step, tokens):
            logits, _ = model.apply(
                variables,
                tokens[:, :-1],
                memory,
                method=lambda m, target, memory: m.decoder(target, memory, None, None, train=False),
            )
            ended = (tokens == EOS).any(axis=1)
            token = jnp.where(ended, PAD, logits[:, step].argmax(axis=-1))
            return tokens.at[:, step + 1].set(token)

        tokens = jnp.full((len(images), length + 1), PAD).at[:, 0].set(BOS)
        return jax.lax.fori_loop(0, length, extend, tokens)[:, 1:]

    run = jax.jit(lambda images, tokens: model.apply(variables, images, tokens)[0])

    def without(images):
        """Pass the image and all tokens through the whole model for every token."""
        tokens = np.full((len(images), length + 1), PAD, np.int32)
        tokens[:, 0] = BOS
        for step in range(length):  # a loop inside the program would encode the image once
            token = np.asarray(run(images, tokens[:, :-1]))[:, step].argmax(axis=-1)
            tokens[:, step + 1] = np.where((tokens == EOS).any(axis=1), PAD, token)
        return tokens[:, 1:]

    times, tokens = {}, {}
    functions = {"cached": cached, "decoder": whole, "model": without}
    for name, function in functions.items():
        tokens[name] = np.asarray(function(images))
    for _ in range(REPEATS):  # in turn, so that other load falls on all of them
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function(images))
            times.setdefault(name, []).append(time.perf_counter() - started)
    fastest = {name: min(values) for name, values in times.items()}
    return {
        "strips": len(chosen),
        "tokens": length,
        "seconds": fastest,
        "times_faster_than_decoder": fastest["decoder"] / fastest["cached"],
        "times_faster_than_model": fastest["model"] / fastest["cached"],
        "equal": all(bool((x == tokens["cached"]).all()) for x in tokens.values()),
    }


def main():
    """Train and measure; print a line for each run and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, metavar="DIR", required=True)
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    flags, overrides = parser.parse_known_args()
    runs = []
    if flags.output and flags.output.is_file():
        runs = json.loads(flags.output.read_text())["runs"]
    for seed in set(range(flags.seeds)) - {run["seed"] for run in runs}:
        path = flags.runs / str(seed)
        times = {} if path.exists() else train(seed, path, overrides)
        net = nets.open_trained(str(path), {}, None, print)
        found = {split: read(net, split) for split in ("test", "longer")}
        start = json.loads((path / "run.json").read_text())[0]
        run = {
            "seed": seed,
            "command": f"python launch.py --config {CONFIG} --config.seed={seed}",
            "commit": start["commit"],
            "versions": start["versions"],
            "steps": json.loads((path / "summary.json").read_text())["step"],
            **times,
            **{split: scores(values) for split, values in found.items()},
            "cross_attention": pointing(net, found["test"]),
            "decoding": timing(net, found["test"]),
        }
        runs.append(run)
        moves = max(row["moves_to_the_right"] for row in run["cross_attention"])
        print(
            f"seed {seed}: exact match {run['test']['accuracy']:.2%}, longer "
            f"{run['longer']['accuracy']:.2%}; attention to the right {moves:.1%}; {times}; "
            f"{run['decoding']}",
            flush=True,
        )
        if flags.output:
            result = {
                "command": f"python benchmarks/strips.py --seeds {flags.seeds}",
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "runs": runs,
            }
            json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
