"""Images a second on one core: this loader, PyTorch's with Pillow, and tf.data.

    python benchmarks/input_pipeline.py --torch-python PYTHON --tensorflow-python PYTHON

The benchmark writes JPEGs of the size of ImageNet's (500×375, about 110 kB), re-encodes them with
`cv_jax prepare` (short side 256, quality 90, and raw), and crops them at random to 224×224 with
every loader. Each loader is a process with one thread, all on the same core. The loaders take turns
in every round, so that other load on the machine affects all of them. Results are medians over the
rounds, in wall time and in processor time; other load distorts processor time less. Ratios compare
loaders within a round. The two interpreters need torch and Pillow, or tensorflow; a loader without
its interpreter is left out.

All loaders deliver uint8 batches; the device flips and normalises. "bilinear" and "bicubic" are
antialiased filters; "linear" interpolates between four pixels. Pillow has no such filter, so
"linear" is compared with its "bilinear".
"""

import argparse
import dataclasses
import io
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE, BATCH = 224, 64
METHODS = ("bilinear", "bicubic", "linear")


def picture(seed: int) -> bytes:
    """Return a JPEG of 500×375: noise at every scale, polygons, and sensor noise."""
    import cv2
    from PIL import Image

    generator, height, width = np.random.default_rng(seed), 375, 500
    image = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 9):
        step = 2**octave
        noise = generator.normal(size=(height // step + 3, width // step + 3, 3))
        noise = 0.85 * noise.mean(-1, keepdims=True) + 0.35 * noise
        image += (
            cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 3.2 * step**0.75
        )
    for _ in range(12):
        shape = np.zeros_like(image)
        corners = (generator.uniform(size=(4, 2)) * (width, height)).astype(np.int32)
        cv2.fillConvexPoly(shape, corners, tuple(generator.uniform(-60, 60, 3)))
        image += shape
    image += generator.normal(size=(height, width, 1)) * 12
    buffer = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


# ---- Loaders: each function returns a function that yields batches of all images, once.


def stream(source: str, method: str, count: int):
    """Return the training batches of this library."""
    from cv_jax import augment
    from cv_jax.data import pipeline, sources, subsets

    parsed = augment.parse(f"inception_crop({SIZE}, method='{method}')|flip")
    opened = sources.open_source(source, "train", None)
    # As many examples as ImageNet: Grain shuffles a small set more slowly.
    records = subsets.Subset(opened.records, np.arange(1_281_167) % count)
    return pipeline.TrainBatches(
        pipeline.Images(dataclasses.replace(opened, records=records), parsed.fixed),
        parsed.host,
        seed=0,
        batch_size=BATCH,
        rows=np.arange(BATCH),
        total_steps=1_000_000,
    )


def ours(source: str, method: str, count: int, rounds: int):
    """Batches of a training run, loaded by one thread."""
    from cv_jax.data import pipeline

    each, starts = stream(source, method, count), itertools.count(0, count // BATCH)

    def batches():
        start = next(starts)
        each.total_steps = start + count // BATCH  # prefetch nothing for the next round
        yield from pipeline.iterate(each, start, workers=0, threads=1, prefetch=1)

    return batches


def bare(source: str, method: str, count: int, rounds: int):
    """Decoding, cropping and resizing without the loader: same images and windows, bytes and
    generators in memory."""
    from cv_jax import augment
    from cv_jax.data import decode

    each = stream(source, method, count)
    data = [each.images.source.records[i][0] for i in range(count)]

    def prepared(step):
        for position, index in enumerate(each.indices(step), step * BATCH):
            yield data[index % count], np.random.default_rng((each.seed, position))

    steps = iter([list(prepared(step)) for step in range(rounds * (count // BATCH))])

    def batches():
        for batch in itertools.islice(steps, count // BATCH):
            images = ((decode.open_image(encoded, 3, str), drawn) for encoded, drawn in batch)
            yield [augment.apply_host(each.host, drawn, image) for image, drawn in images]

    return batches


def torch_loader(folder: str, method: str, count: int, rounds: int):
    """PyTorch DataLoader with Pillow, and an own copy of torchvision's RandomResizedCrop."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    files = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
    generator = np.random.default_rng(0)

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return count

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                image = Image.open(file).convert("RGB")
            left, top, width, height = window(generator, *image.size)
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((SIZE, SIZE), Image.Resampling[method.upper()])
            return torch.from_numpy(np.array(image)), 0

    loader = torch.utils.data.DataLoader(Images(), BATCH, shuffle=True, drop_last=True)
    return lambda: iter(loader)


def window(generator, width, height):
    """Return left, top, width, height of a crop of 8 to 100 % of the area, aspect 3/4 to 4/3."""
    while True:
        area = width * height * generator.uniform(0.08, 1)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            return generator.integers(width - w + 1), generator.integers(height - h + 1), w, h


def tf_data(folder: str, antialias: bool, count: int, rounds: int):
    """tf.data with the fused decode_and_crop_jpeg, as in Google's training code."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    files = sorted(str(path) for path in Path(folder).rglob("*.jpg"))[:count]

    def load(file):
        data = tf.io.read_file(file)
        start, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4]),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.concat([start[:2], size[:2]], 0)
        image = tf.io.decode_and_crop_jpeg(data, crop, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
        return tf.cast(tf.round(image), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(count)
    dataset = dataset.map(load).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return lambda: iter(dataset.with_options(options))


def serve(kind: str, arguments: list) -> None:
    """Run a round for each line on stdin; print images, wall seconds and processor seconds."""
    makers = {"ours": ours, "bare": bare, "torch": torch_loader, "tf": tf_data}
    batches = makers[kind](*arguments)
    module = {"ours": "jax", "bare": "jax", "torch": "torch", "tf": "tensorflow"}[kind]
    print(json.dumps({module: sys.modules[module].__version__}), flush=True)
    for _ in sys.stdin:
        clock, processor, images = time.perf_counter(), time.process_time(), 0
        for batch in batches():
            images += len(batch["image"]) if kind == "ours" else BATCH
        seconds = time.perf_counter() - clock, time.process_time() - processor
        print(json.dumps([images, *seconds]), flush=True)


class Loader:
    """A loader in its own process."""

    def __init__(self, python: str, kind: str, *arguments):
        words = [python, __file__, "--serve", kind, json.dumps(arguments)]
        root = str(Path(__file__).resolve().parent.parent)
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
        )
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{kind}: {self.process.stderr.read()}")
        self.version = json.loads(line)

    def round(self) -> list:
        """Load all images once; return images, wall seconds and processor seconds."""
        print("go", file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main():
    """Write the images, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="Python interpreter with torch and Pillow")
    parser.add_argument("--tensorflow-python", help="Python interpreter with tensorflow")
    parser.add_argument("--images", type=int, default=256, help="number of images")
    parser.add_argument("--rounds", type=int, default=11, help="rounds whose median is taken")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve(flags.serve[0], json.loads(flags.serve[1]))
        return

    from cv_jax import __main__ as program
    from cv_jax.run import json_files, provenance

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "train"
        sizes = []
        for i in range(flags.images):
            file = folder / str(i % 8) / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            sizes.append(file.write_bytes(picture(i)))
        photographs = f"folder:{temporary}"
        for name, how in (("q90", ["--quality=90"]), ("raw", ["--raw"])):
            out = f"--to={temporary}-{name}"
            program.main(["prepare", photographs, out, "--short-side=256", *how])
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it
        result = measure(flags, photographs, temporary)
    result |= {
        "images": flags.images,
        "mean_kilobytes": statistics.mean(sizes) / 1000,
        "machine": f"{platform.processor() or platform.machine()}, one core",
        "load_average": os.getloadavg(),
        "commit": provenance.commit(),
        "rounds_of_each": flags.rounds,
    }
    result["versions"] |= provenance.environment()["versions"]
    print(json.dumps(result, indent=2))
    if flags.output:
        json_files.write_json(flags.output, result)


def measure(flags, photographs: str, temporary: str) -> dict:
    """Run all rounds of all loaders; return speeds and ratios."""
    size = flags.images, flags.rounds + 1
    loaders = {}
    sources = {
        "originals": photographs,
        "q90": f"records:{temporary}-q90",
        "raw": f"records:{temporary}-raw",
    }
    folder = f"{temporary}/train"
    for method in METHODS:
        loaders[f"bare {method}"] = Loader(sys.executable, "bare", photographs, method, *size)
        for name, source in sources.items():
            mine = Loader(sys.executable, "ours", source, method, *size)
            loaders[f"ours {name} {method}"] = mine
        if flags.torch_python and method != "linear":
            theirs = Loader(flags.torch_python, "torch", folder, method, *size)
            loaders[f"torch {method}"] = theirs
        if flags.tensorflow_python and method != "bicubic":
            theirs = Loader(flags.tensorflow_python, "tf", folder, method != "linear", *size)
            loaders[f"tf {method}"] = theirs
    for loader in loaders.values():
        loader.round()  # warm-up
    clock = {name: [] for name in loaders}
    processor = {name: [] for name in loaders}
    for _ in range(flags.rounds):
        for name, loader in loaders.items():
            images, seconds, busy = loader.round()
            clock[name].append(images / seconds)
            processor[name].append(images / busy)

    def ratio(a, b):
        if b not in loaders:
            return {}
        return {
            f"{a} / {b}": {
                "clock": statistics.median(np.divide(clock[a], clock[b])),
                "processor": statistics.median(np.divide(processor[a], processor[b])),
            }
        }

    ratios = {}
    for method in METHODS:
        ratios |= ratio(f"bare {method}", f"ours originals {method}")
        pillow = "torch bilinear" if method == "linear" else f"torch {method}"
        for name in sources:
            ratios |= ratio(f"ours {name} {method}", pillow)
        ratios |= ratio(f"ours originals {method}", f"tf {method}")
    versions = {}
    for loader in loaders.values():
        versions |= loader.version
        loader.process.kill()
    return {
        "images_per_second": {name: statistics.median(values) for name, values in clock.items()},
        "images_per_processor_second": {
            name: statistics.median(values) for name, values in processor.items()
        },
        "ratios": ratios,
        "rounds": clock,
        "versions": versions,
    }


if __name__ == "__main__":
    main()
