"""Every config field once: name, type, default, kind and meaning.

Fields of the model are not listed here: they stand under `config.model` as `models.fields(name)`
gives them, and all of them are of kind "result".
"""

from typing import Any, NamedTuple


class Field(NamedTuple):
    """One field of the table below.

    Attributes:
      name: dotted name under `config`.
      type: type hint that its value must fit; see `values.coerce`.
      default: its value if neither the config file nor the command line sets it.
      kind: "result" if it decides what a run computes, "evaluation" if what is measured of it,
        "run" if only how; see `config`.
      meaning: one line for the reader of `python launch.py --help`.
    """

    name: str
    type: Any
    default: Any
    kind: str
    meaning: str


UNITS = ("steps", "epochs", "examples", "percent")


def _result(name, type, default, meaning):
    return [Field(name, type, default, "result", meaning)]


def _evaluation(name, type, default, meaning):
    return [Field(name, type, default, "evaluation", meaning)]


def _run(name, type, default, meaning):
    return [Field(name, type, default, "run", meaning)]


def _duration(field, name, meaning, **default):
    """A duration is given in one of several units; the others stay none."""
    fields = []
    for unit in UNITS:
        type = int | None if unit in ("steps", "examples") else float | None
        if name != "total" or unit != "percent":
            fields += field(f"{name}_{unit}", type, default.get(unit), f"{meaning}, in {unit}")
    return fields


# fmt: off
_GROUPS = [
    _result("seed", int, 0, "seed of every random draw of the run"),
    _result("image_size", int | tuple[int, int], 32,
            "side, or height,width, in pixels, of the images that reach the model"),
    _result("batch_size", int, 128, "examples in a step, over all devices and hosts"),
    _duration(_result, "total", "length of the training", epochs=10.0),
    _result("init_from", str | None, None,
            "weights to start from: a run directory, a file that python -m cv_jax convert wrote, a "
            "folder in the Hub's layout, or hf-hub:OWNER/NAME"),
    _result("xla_flags", str, "", "flags for the compiler; they may change numerics"),

    _result("data.name", str, "digits", "TFDS dataset: name, name/config or name:version; or "
            "folder:PATH, images in class folders; or records:PATH, written by prepare"),
    _run("data.dir", str | None, None,
         "folder of prepared datasets; none is $TFDS_DATA_DIR, else ~/tensorflow_datasets"),
    _result("data.train_split", str, "train", "split to train on; train[:90%] and the like too"),
    _evaluation("data.eval_split", str, "test", "split to evaluate on"),
    _result("data.fraction", float | None, None,
            "keep this share of the training split, each class in its share"),
    _result("data.per_class", int | None, None, "keep so many training examples of each class"),
    _result("data.subset_seed", int, 0,
            "which examples these are, and which a part of a folder's split holds"),
    _result("data.skip_broken", bool, False,
            "leave out examples that cannot be read: all are tried before the first step"),
    _result("data.mean", tuple[float, ...], (0.5,),
            "subtracted from pixels on the scale 0…1; one value, or one per channel"),
    _result("data.std", tuple[float, ...], (0.5,), "divided by after that; likewise"),
    _run("data.cache", str, "auto",
         "device, memory or none: where decoded training images are held; auto chooses by size"),
    _run("data.workers", int, 0,
         "loader processes for what is not cached; 0 loads in threads of the main process"),
    _run("data.threads", int, 4, "loader threads of each process"),
    _run("data.prefetch", int, 4, "batches that are loaded ahead"),

    _result("augment", str, "", "training preprocessing and augmentation: op(args)|op(args)|…; "
            "without a host operation the image is first resized to image_size"),
    _evaluation("eval_preprocess", str, "", "test preprocessing, likewise; may end in views, whose "
                "answers are averaged: ten_crop(size), flips, multi_scale((size, …))"),

    _result("loss.name", str, "softmax",
            "softmax or sigmoid cross-entropy, focal or sigmoid_focal, or rbf, the criterion of "
            "lenet5_1998"),
    _result("loss.margin", float, 10.0, "rbf: penalty at which a wrong class is far enough"),
    _result("loss.label_smoothing", float, 0.0, "probability mass spread evenly over all classes"),
    _result("loss.z", float, 0.0,
            "softmax and focal: weight of the squared logarithm of the normaliser"),
    _result("loss.gamma", float, 2.0, "focal: how much less examples count that are right already"),
    _result("loss.alpha", float | None, 0.25, "sigmoid_focal: weight of what is there against "
            "1 - alpha for what is not; none weighs neither"),
    _result("distill.teacher", str | None, None,
            "run directory, or file written by python -m cv_jax convert, of a net to learn from"),
    _result("distill.kind", str, "soft",
            "soft learns the teacher's probabilities, hard its likeliest class"),
    _result("distill.alpha", float, 0.5, "share of the teacher in the loss, beside the labels"),
    _result("distill.temperature", float, 3.0, "soft: what scores are divided by"),

    _result("optim.name", str, "adamw", "sgd, adam, adamw, nadam, nadamw, lamb, lars, lion, "
            "adafactor, or muon with adamw for what is no hidden matrix"),
    _result("optim.learning_rate", float, 1e-3, "peak learning rate"),
    _result("optim.base_batch_size", int | None, None,
            "the learning rate is meant for this batch size and grows with batch_size"),
    _result("optim.momentum", float, 0.9, "momentum of sgd, lars and muon; 0 is none"),
    _result("optim.nesterov", bool, False, "Nesterov's momentum for sgd and lars"),
    _result("optim.b1", float, 0.9,
            "decay of the first moment of adam and its kin, of lion, and of adafactor, where 0 "
            "keeps none"),
    _result("optim.b2", float, 0.999, "decay of the second moment of adam and its kin, of lion's "
            "moment (0.99 is usual); its bound in adafactor"),
    _result("optim.eps", float, 1e-8, "added to the denominator of adam and its kin"),
    _result("optim.trust_coefficient", float, 1e-3, "lars: change of a layer, relative to it"),
    _result("optim.parameter_scale", bool, True,
            "adafactor: steps are relative to the size of the parameter"),
    _result("optim.moment_dtype", str, "float32",
            "float32 or bfloat16, of first moments and momentum; second moments stay float32, for "
            "bfloat16 would round their small changes away"),
    _result("optim.weight_decay", float, 0.0, "part of the gradient in sgd, adam, nadam and lars; "
            "decoupled (times the learning rate) in all others"),
    _result("optim.rules", tuple[str, ...],
            (".*(bias|scale|gamma|pos_embed|token|query): decay=0",),
            "ordered rules PATTERN: lr=FACTOR decay=FACTOR freeze|train for parameters by name; "
            "the first that says a thing wins; see cv_jax/rules.py"),
    _result("optim.layer_decay", float | None, None,
            "ViT, Swin, ResNet: learning rate of a layer relative to that of the next"),
    _result("optim.clip_norm", float | None, None, "largest global norm of the gradient"),
    _result("optim.clip_value", float | None, None, "largest absolute value in the gradient"),
    _result("optim.clip_adaptive", float | None, None,
            "largest norm of a unit's gradient, relative to that of its weights"),
    _result("optim.accumulate_steps", int, 1,
            "parts of the batch that are computed one after the other to save memory"),

    _result("schedule.name", str, "cosine", "constant, step, multistep, cosine, linear, "
            "polynomial, rsqrt, wsd or one_cycle; see cv_jax/schedules.py"),
    _duration(_result, "schedule.warmup", "linear warm-up"),
    _result("schedule.warmup_factor", float, 0.0, "the warm-up starts at this share of the peak"),
    _duration(_result, "schedule.cooldown", "at the end the rate falls to the end_factor"),
    _result("schedule.end_factor", float, 0.0,
            "share of the peak at which cool-down, cosine, linear, polynomial and one_cycle end"),
    _duration(_result, "schedule.every", "step: the rate falls whenever this has passed"),
    _result("schedule.milestones", tuple[float, ...], (50.0, 75.0),
            "multistep: percents of the training at which the rate falls"),
    _result("schedule.decay_factor", float, 0.1,
            "step, multistep: what the rate is multiplied by when it falls"),
    _result("schedule.power", float, 2.0, "polynomial: its power"),
    _duration(_result, "schedule.timescale", "rsqrt: its timescale; else the warm-up"),

    _result("ema.decay", float | None, None,
            "decay of averaged parameters and statistics, which are then the ones evaluated"),
    _result("ema.warmup", bool, False,
            "after t updates the decay is at most (1 + t) / (10 + t)"),
    _result("dropout_rng", str, "threefry2x32",
            "generator of dropout masks: threefry2x32, or rbg, which is faster on accelerators"),

    _evaluation("eval.average", str, "probabilities",
                "what is averaged over views: probabilities or logits"),
    _run("eval.extra", str, "", "more evaluations, each with data and interval of its own: "
         "kind(option=value, …)|…; see `evaluators`"),
    _run("eval.batch_size", int, 256, "examples in an evaluation step, over all devices and hosts"),
    _duration(_run, "eval.every", "evaluate this often, and at the end", epochs=1.0),
    _duration(_run, "log.every", "write training metrics this often", steps=20),
    _run("log.norms", bool, False,
         "write the norms of gradient and parameters of each layer with the training metrics"),
    _run("log.writers", tuple[str, ...], (),
         "where metrics go besides metrics.jsonl: tensorboard, wandb"),
    _run("log.wandb_project", str, "cv_jax", "project of the run at Weights & Biases"),
    _duration(_run, "checkpoint.every", "save this often, and at the end", epochs=1.0),
    _run("checkpoint.every_seconds", float | None, None, "save when this long has passed, too"),
    _run("checkpoint.keep_last", int, 2, "newest checkpoints that are kept"),
    _run("checkpoint.keep_best", int, 0,
         "checkpoints of the best test accuracy (or loss, where there is none) that are kept "
         "besides; each better one is saved"),
    _run("mesh.devices", int | None, None, "use only the first so many devices"),
    _run("mesh.heartbeat_seconds", int, 100,
         "of several processes, one that was silent for so long is taken for dead"),
    _run("compile_cache", str, "auto", "folder where compiled programs are kept; auto is "
         "cv_jax/programs in $XDG_CACHE_HOME or ~/.cache; none keeps none"),
    _run("profile.start_step", int, 10, "updates of the run made before the trace starts"),
    _run("profile.num_steps", int, 0,
         "updates to trace with jax.profiler, into WORKDIR/profile; 0 is none"),
    _run("mesh.params", str, "replicated", "replicated, or fsdp: every device holds a part of each "
         "large array of the state; see cv_jax/partition.py"),
    _run("mesh.fsdp_min_size", int, 4096, "fsdp: arrays of fewer elements stay whole"),
    _run("mesh.model", int, 1,
         "Transformers: heads and hidden units are split over so many devices"),
    _result("mesh.step", str, "jit", "jit: what is computed does not depend on the devices; pmap: "
            "each device normalises its part of the batch for itself and draws its own dropout"),
]
# fmt: on

FIELDS: dict[str, Field] = {field.name: field for group in _GROUPS for field in group}
