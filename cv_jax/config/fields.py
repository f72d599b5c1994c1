"""Every config field once: name, type, default, kind, meaning and range.

Fields of the model are not listed here: `models.fields(name)` gives them, and they all have the
kind "result".
"""

import dataclasses
import functools
import math
from typing import Any

from cv_jax.config.values import LARGEST
from cv_jax.errors import InputError, did_you_mean

MAX_IMAGE_SIDE = 32767  # pixels; the limit of OpenCV


@dataclasses.dataclass(frozen=True)
class Field:
    """One config field.

    A range holds for every number of a tuple. `None` is outside all ranges: the type decides
    whether it is allowed.

    Attributes:
      name: dotted name under `config`.
      type: type hint of the value; see `values.coerce`.
      default: value without a config file and without an override.
      kind: "result", "evaluation" or "run"; see `cv_jax.config`.
      meaning: one line for `python launch.py --help`.
      allowed: the allowed strings; `None` for any.
      minimum: smallest allowed number.
      maximum: largest allowed number.
      above: numbers must be larger than this.
      below: numbers must be smaller than this.
    """

    name: str
    type: Any
    default: Any
    kind: str
    meaning: str
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def range(self) -> str:
        """The allowed values in words, such as "at least 0 and less than 1"; "" for any."""
        if self.allowed is not None:
            return f"one of {', '.join(self.allowed)}"
        bounds = (
            ("at least", self.minimum),
            ("more than", self.above),
            ("at most", self.maximum),
            ("less than", self.below),
        )
        return " and ".join(f"{words} {bound}" for words, bound in bounds if bound is not None)

    def check(self, value: Any) -> None:
        """Raise an `InputError` if the value is out of range or not among the allowed strings."""
        if value is None:
            return
        for item in value if isinstance(value, tuple) else (value,):
            if self.allowed is not None:
                if item not in self.allowed:
                    hint = did_you_mean(item, self.allowed)
                    raise InputError(f"config.{self.name}: {item!r} is not {self.range}{hint}")
            elif isinstance(item, str):
                if not item.strip() and self.default != "":
                    none = "; use none for no value" if self.default is None else ""
                    raise InputError(f"config.{self.name}={item!r} is empty{none}")
            elif not self._contains(item):
                finite = "" if math.isfinite(item) else "finite"
                words = ", ".join(filter(None, (finite, self.range)))
                raise InputError(f"config.{self.name}={value} must be {words}")

    def _contains(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.minimum is None or number >= self.minimum)
            and (self.above is None or number > self.above)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )


UNITS = ("steps", "epochs", "examples", "percent")


def _field(kind, name, type, default, meaning, **range):
    return [Field(name, type, default, kind, meaning, **range)]


_result = functools.partial(_field, "result")
_evaluation = functools.partial(_field, "evaluation")
_run = functools.partial(_field, "run")


def _duration(field, name, meaning, **default):
    """One field for each unit; at most one of them is set, the others are `None`."""
    fields = []
    for unit in UNITS:
        type = int | None if unit in ("steps", "examples") else float | None
        if name != "total" or unit != "percent":
            fields += field(
                f"{name}_{unit}", type, default.get(unit), f"{meaning}, in {unit}", minimum=0
            )
    return fields


_SHARE = dict(minimum=0, maximum=1)
_DECAY = dict(minimum=0, below=1)

# fmt: off
_GROUPS = [
    _result("seed", int, 0, "seed of every random draw of the run", minimum=0, maximum=2**32 - 1),
    _result("image_size", int | tuple[int, int], 32,
            "input size of the model in pixels: side, or height,width",
            minimum=1, maximum=MAX_IMAGE_SIDE),
    _result("batch_size", int, 128,
            "examples per training step, over all devices and hosts", minimum=1, maximum=LARGEST),
    _duration(_result, "total", "length of the training", epochs=10.0),
    _result("steps_per_program", int, 1,
            "most training steps in one jitted program; above 1 the training split must be in "
            "device memory; may change the last bits", minimum=1, maximum=LARGEST),
    _result("init_from", str | None, None,
            "weights to start from: a run directory, a file that python -m cv_jax convert wrote, "
            "a folder in the Hub's layout, or hf-hub:OWNER/NAME; {seed} in the text is replaced by "
            "the seed"),
    _result("xla_flags", str, "", "flags for the compiler; they may change numerics"),

    _result("data.name", str, "digits",
            "TFDS dataset: name, name/config or name:version; or folder:PATH, images in class "
            "folders; or records:PATH, written by prepare"),
    _run("data.dir", str | None, None,
         "folder of prepared datasets; none: $TFDS_DATA_DIR, else ~/tensorflow_datasets"),
    _result("data.target", str | None, None,
            "feature of a TFDS dataset to learn: a class label, or a sequence of class labels for "
            "an image_transformer or transformer; none: the class label, or the second sequence "
            "of a dataset of two"),
    _result("data.train_split", str, "train", "training split, such as train or train[:90%]"),
    _evaluation("data.eval_split", str, "test", "evaluation split"),
    _result("data.fraction", float | None, None,
            "share of the training split to keep, stratified by class", above=0, maximum=1),
    _result("data.per_class", int | None, None,
            "training examples to keep of each class", minimum=1, maximum=LARGEST),
    _result("data.subset_seed", int | None, 0,
            "seed of these subsets, and of partial splits of a folder; none: the seed of the run",
            minimum=0, maximum=2**32 - 1),
    _result("data.skip_broken", bool, False,
            "skip unreadable examples; every example is decoded once before the first step"),
    _run("data.max_pixels", int, 178_956_970,
         "largest number of pixels of an encoded image, read from its header; a larger image "
         "counts as unreadable", minimum=1, maximum=LARGEST),
    _result("data.mean", tuple[float, ...] | None, None,
            "mean of the pixels on the scale 0…1, one value or one per channel; none: that of "
            "the weights of init_from, else the usual one of the dataset, else 0.5", **_SHARE),
    _result("data.std", tuple[float, ...] | None, None,
            "standard deviation of the pixels, likewise", above=0),
    _run("data.cache", str, "auto",
         "where decoded training images are held; auto decides by size",
         allowed=("auto", "device", "memory", "none")),
    _run("data.hash", str, "auto",
         "which files of the data are read and hashed at a start, to notice changes; auto: all of "
         "a dataset up to 1 GiB, else names, sizes and times, and each example when it is read; "
         "full: all",
         allowed=("auto", "full")),
    _run("data.workers", int, 0,
         "loader processes for images that are not cached; 0: threads of the main process",
         minimum=0, maximum=1024),
    _run("data.threads", int, 4, "loader threads per process", minimum=1, maximum=1024),
    _run("data.prefetch", int, 4, "batches to load ahead", minimum=1, maximum=LARGEST),

    _result("augment", str, "",
            "training preprocessing and augmentation: op(args)|op(args)|…; without a host "
            "operation the image is first resized to image_size"),
    _evaluation("eval_preprocess", str, "",
                "test preprocessing, likewise; may end in views, whose predictions are averaged: "
                "ten_crop(size), flips, multi_scale((size, …))"),

    _result("loss.name", str, "softmax",
            "softmax or sigmoid cross-entropy, their focal variants, or rbf, the loss of "
            "lenet5_1998", allowed=("softmax", "sigmoid", "focal", "sigmoid_focal", "rbf")),
    _result("loss.margin", float, 10.0,
            "rbf: penalty above which a wrong class adds no loss", above=0),
    _result("loss.label_smoothing", float, 0.0,
            "probability mass spread evenly over all classes", **_DECAY),
    _result("loss.z", float, 0.0,
            "softmax and focal: weight of the squared logarithm of the normaliser", minimum=0),
    _result("loss.gamma", float, 2.0,
            "focal losses: exponent that reduces the loss of well-classified examples", minimum=0),
    _result("loss.alpha", float | None, 0.25,
            "sigmoid_focal: weight of present classes; absent classes have weight 1 - alpha; "
            "none: no weights", **_SHARE),
    _result("distill.teacher", str | None, None,
            "teacher model: a run directory, or a file written by python -m cv_jax convert; {seed} "
            "in the text is replaced by the seed"),
    _result("distill.kind", str, "soft",
            "soft: learn the probabilities of the teacher; hard: learn its most likely class",
            allowed=("soft", "hard")),
    _result("distill.alpha", float, 0.5,
            "weight of the teacher's loss; the label loss has weight 1 - alpha", **_SHARE),
    _result("distill.temperature", float, 3.0, "soft: temperature of the softmax", above=0),

    _result("optim.name", str, "adamw",
            "optimiser; muon updates hidden matrices and leaves all other parameters to "
            "optim.others",
            allowed=("sgd", "adam", "adamw", "nadam", "nadamw", "lamb", "lars", "lion",
                     "adafactor", "muon")),
    _result("optim.learning_rate", float, 1e-3, "peak learning rate", minimum=0),
    _result("optim.base_batch_size", int | None, None,
            "the batch size of learning_rate; the rate scales linearly with batch_size",
            minimum=1, maximum=LARGEST),
    _result("optim.momentum", float, 0.9,
            "momentum of sgd, lars and muon; 0: no momentum", **_DECAY),
    _result("optim.nesterov", bool, False,
            "Nesterov momentum for sgd, also as optim.others, and lars; muon always has it"),
    _result("optim.muon_iterations", int, 5,
            "muon: Newton-Schulz iterations", minimum=1, maximum=100),
    _result("optim.muon_scale", str, "rms",
            "muon: size of an orthogonal update; rms: root mean square of 0.2, as updates of "
            "adamw; none: singular values near 1", allowed=("rms", "none")),
    _result("optim.muon_keep_norms", bool, False,
            "muon: scale each matrix to the norm √outputs before its update"),
    _result("optim.others", str, "adamw",
            "muon: optimiser of all other parameters", allowed=("adamw", "sgd")),
    _result("optim.others_momentum", float, 0.9,
            "muon: momentum of sgd as optim.others; 0: no momentum", **_DECAY),
    _result("optim.b1", float, 0.9,
            "decay of the first moment (adam, adamw, nadam, nadamw, lamb, lion); adafactor: 0 "
            "keeps no first moment", **_DECAY),
    _result("optim.b2", float, 0.999,
            "decay of the second moment (adam, adamw, nadam, nadamw, lamb), of the moment of lion "
            "(usually 0.99); upper bound of the decay in adafactor", **_DECAY),
    _result("optim.eps", float, 1e-8,
            "added to the denominator (adam, adamw, nadam, nadamw, lamb)", minimum=0),
    _result("optim.trust_coefficient", float, 1e-3,
            "lars: norm of a layer's update relative to the norm of the layer", minimum=0),
    _result("optim.parameter_scale", bool, True,
            "adafactor: scale updates by the size of the parameter"),
    _result("optim.moment_dtype", str, "float32",
            "dtype of first moments and momentum; second moments stay float32, because bfloat16 "
            "rounds their small changes away", allowed=("float32", "bfloat16")),
    _result("optim.master_weights", bool, True,
            "store and update the parameters in float32 if model.param_dtype is bfloat16; the "
            "model reads them rounded; false: store them in bfloat16, which rounds small updates "
            "away"),
    _result("optim.weight_decay", float, 0.0,
            "part of the gradient in sgd, also as optim.others, adam, nadam and lars; decoupled "
            "(times the learning rate) in all others", minimum=0),
    _result("optim.rules", tuple[str, ...],
            (".*(bias|scale|gamma|pos_embed|token|query): decay=0",),
            "ordered rules PATTERN: lr=FACTOR decay=FACTOR until=PERCENT% freeze|train for "
            "parameters by name; "
            "the first matching rule wins for each setting; the default depends on the model; see "
            "cv_jax/optim/parameter_rules.py"),
    _result("optim.layer_decay", float | None, None,
            "learning rate of a layer relative to the next layer", above=0, maximum=1),
    _result("optim.clip_norm", float | None, None,
            "clip the global norm of the gradient to this value", above=0),
    _result("optim.clip_value", float | None, None,
            "clip the elements of the gradient to this absolute value", above=0),
    _result("optim.clip_adaptive", float | None, None,
            "clip the norm of a unit's gradient to this share of the norm of its weights", above=0),
    _result("optim.accumulate_steps", int, 1,
            "micro-batches per step, computed one after the other to save memory",
            minimum=1, maximum=LARGEST),

    _result("schedule.name", str, "cosine",
            "learning-rate schedule; see cv_jax/optim/schedules.py",
            allowed=("constant", "step", "multistep", "cosine", "linear", "polynomial",
                     "rsqrt", "wsd", "one_cycle")),
    _duration(_result, "schedule.warmup", "linear warm-up"),
    _result("schedule.warmup_factor", float, 0.0,
            "learning rate at the start of the warm-up, as a share of the peak", **_SHARE),
    _duration(_result, "schedule.cooldown", "linear cool-down at the end, to end_factor"),
    _result("schedule.end_factor", float, 0.0,
            "final learning rate of cool-down, cosine, linear, polynomial and one_cycle, as a "
            "share of the peak", **_SHARE),
    _duration(_result, "schedule.every", "step: interval between two decays"),
    _result("schedule.milestones", tuple[float, ...], (50.0, 75.0),
            "multistep: decays, in percent of the training", minimum=0, maximum=100),
    _result("schedule.decay_factor", float, 0.1, "step, multistep: factor of each decay", **_SHARE),
    _result("schedule.power", float, 2.0, "polynomial: exponent", above=0),
    _duration(_result, "schedule.timescale", "rsqrt: timescale; defaults to the warm-up"),

    _result("ema.decay", float | None, None,
            "decay of the exponential moving average of parameters and statistics; evaluation "
            "uses the average", **_DECAY),
    _result("ema.warmup", bool, False, "limit the decay after t updates to (1 + t) / (10 + t)"),
    _result("dropout_rng", str, "threefry2x32",
            "random generator of dropout masks; rbg is faster on accelerators",
            allowed=("threefry2x32", "rbg")),

    _evaluation("eval.average", str, "probabilities",
                "what is averaged over test-time views", allowed=("probabilities", "logits")),
    _evaluation("eval.max_length", int, 32,
                "sequences: most tokens that are decoded, with the token of the end",
                minimum=1, maximum=4096),
    _evaluation("eval.beams", int, 4,
                "sequences: beams of beam search; 0: greedy search only", minimum=0, maximum=1024),
    _evaluation("eval.length_penalty", float, 0.6,
                "sequences: exponent of the length penalty of beam search; 0: none", minimum=0),
    _run("eval.extra", str, "",
         "further evaluations, each with its own data and interval: kind(option=value, …)|…; see "
         "cv_jax/evaluation/plan.py"),
    _run("eval.pictures", int, 0,
         "masked autoencoder: test images whose reconstructions are drawn into WORKDIR/pictures at "
         "each evaluation; 0: none", minimum=0, maximum=32),
    _run("eval.batch_size", int, 256,
         "examples per evaluation step, over all devices and hosts", minimum=1, maximum=LARGEST),
    _duration(_run, "eval.every",
              "interval between evaluations; the last step is always evaluated", epochs=1.0),
    _duration(_run, "log.every", "interval between training metrics", steps=20),
    _run("log.norms", bool, False, "write the norms of gradient and parameters of each layer"),
    _run("log.writers", tuple[str, ...], (),
         "metric writers besides metrics.jsonl; at the end of a run they also get pictures, in "
         "WORKDIR/pictures", allowed=("tensorboard", "wandb")),
    _run("log.wandb_project", str, "cv_jax", "Weights & Biases project"),
    _run("report", bool, False,
         "write report.html into the run directory at the end of the run; see python -m cv_jax "
         "report"),
    _duration(_run, "checkpoint.every",
              "interval between checkpoints; the last step is always saved", epochs=1.0),
    _run("checkpoint.every_seconds", float | None, None,
         "additional checkpoints after this many seconds", minimum=0),
    _run("checkpoint.keep_last", int, 2,
         "number of newest checkpoints to keep", minimum=1, maximum=LARGEST),
    _run("checkpoint.keep_best", int, 0,
         "number of best checkpoints to keep, by test accuracy, else by test loss; each new best "
         "is saved", minimum=0, maximum=LARGEST),
    _run("mesh.devices", int | None, None, "number of devices to use; `none` uses all",
         minimum=1, maximum=LARGEST),
    _run("mesh.heartbeat_seconds", int, 100,
         "a process without a heartbeat for this long counts as dead", minimum=1, maximum=LARGEST),
    _run("compile_cache", str, "auto",
         "folder of the compilation cache; auto: cv_jax/programs in $XDG_CACHE_HOME or ~/.cache; "
         "none: no cache"),
    _run("profile.start_step", int, 10, "first step of the trace", minimum=0, maximum=LARGEST),
    _run("profile.num_steps", int, 0,
         "steps to trace with jax.profiler into WORKDIR/profile; 0: no trace",
         minimum=0, maximum=LARGEST),
    _run("mesh.params", str, "replicated",
         "fsdp: each device stores a shard of every large array of the state; see "
         "cv_jax/devices/partition.py", allowed=("replicated", "fsdp")),
    _run("mesh.fsdp_min_size", int, 4096,
         "fsdp: arrays with fewer elements are not sharded", minimum=1, maximum=LARGEST),
    _run("mesh.model", int, 1,
         "devices of tensor parallelism: heads and hidden units of Transformers are split over "
         "them", minimum=1, maximum=LARGEST),
    _result("mesh.step", str, "jit",
            "jit: the result does not depend on the devices; pmap: each device normalises its "
            "shard of the batch by itself and draws its own dropout masks",
            allowed=("jit", "pmap")),
]
# fmt: on

FIELDS: dict[str, Field] = {field.name: field for group in _GROUPS for field in group}
