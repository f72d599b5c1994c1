"""Published recipes: every number with its source.

`RECIPES` maps a config to its source and to the values of its fields. The test fails if a result
field that is not listed differs from its default. A source is a section of a paper or a file of the
authors' release. Comments give the source's flag or formula where it differs from the field here.
"""

from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """Attributes:
    source: where the numbers are published.
    fields: name → value.
    """

    source: str
    fields: dict[str, Any]


_NOT_DECAYED = (".*(bias|scale|gamma|pos_embed|token|query): decay=0",)
_RAND_M9 = "randaugment(2, 9, 0.5, fill=(124, 116, 104))"  # rand-m9-mstd0.5-inc1, filled with mean
_TORCHVISION_ERASE = "'constant', 0.02, 0.33, 0.3, 3.3"  # RandomErasing's defaults
_EVAL_BICUBIC = "resize_small(256, 'bicubic')|central_crop(224)"
_ADAMW = {"optim.name": "adamw", "optim.b1": 0.9, "optim.b2": 0.999, "optim.eps": 1e-8}
_TORCHVISION = "pytorch/vision, references/classification: README.md and the defaults of train.py"
_DEIT = "facebookresearch/deit, main.py: defaults; README: --batch-size 256 on 4 GPUs"
_SWIN = "microsoft/Swin-Transformer, config.py and configs/swin; batch 128 on 8 GPUs; paper, A2.1"
_MAE_PRETRAIN = "facebookresearch/mae, PRETRAIN.md; paper, table 8"
_MAE_FINETUNE = "facebookresearch/mae, FINETUNE.md and the defaults of main_finetune.py"
_MAE_PROBE = (
    "facebookresearch/mae, FINETUNE.md and the defaults of main_linprobe.py; paper, table 10"
)
_AIRBENCH = "KellerJordan/cifar10-airbench, airbench94_muon.py"
_PLAIN = "google-research/big_vision, configs/vit_s16_i1k.py"


def _torchvision_ema(decay: float, batch_size: int, epochs: int) -> float:
    """Decay for averaging at every step. train.py averages every `steps` steps and multiplies
    1 - decay by batch·steps/epochs."""
    steps = 32  # --model-ema-steps
    return 1 - (1 - decay) * batch_size * steps / epochs / steps


def _swin(drop_path: float) -> dict[str, Any]:
    return {
        **_ADAMW,
        "batch_size": 8 * 128,
        "total_epochs": 300.0,
        "augment": f"inception_crop(224, method='bicubic')|flip|{_RAND_M9}|erase(0.25, 'pixel')"
        "|mixup_or_cutmix(0.8, 1.0, 0.5)",
        "eval_preprocess": _EVAL_BICUBIC,
        "loss.label_smoothing": 0.1,
        "model.drop_path_rate": drop_path,
        "optim.learning_rate": 5e-4 * 1024 / 512,  # BASE_LR, scaled in main.py
        "optim.weight_decay": 0.05,
        "optim.clip_norm": 5.0,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 20.0,
        "schedule.warmup_factor": 5e-7 / 5e-4,  # WARMUP_LR
        "schedule.end_factor": 5e-6 / 5e-4,  # MIN_LR
        # no_weight_decay: vectors and relative_position_bias_table; v2: cpb_mlp and logit_scale
        "optim.rules": (".*(bias|scale|relative_position_bias_table|cpb_mlp.*): decay=0",),
    }


def _torchvision_swin(drop_path: float, resize: int) -> dict[str, Any]:
    return {
        **_swin(drop_path),
        "augment": "repeat(4)|inception_crop(224, method='bicubic')|flip|trivialaugment('bicubic')"
        f"|erase(0.25, {_TORCHVISION_ERASE})|mixup_or_cutmix(0.8, 1.0, 0.5)",
        "eval_preprocess": f"resize_small({resize}, 'bicubic')|central_crop(224)",
        "schedule.warmup_factor": 0.01,  # --lr-warmup-decay
        "ema.decay": _torchvision_ema(0.99998, 1024, 300),
    }


def _mae_finetune(epochs: float, rate: float, layer_decay: float, drop_path: float):
    return {
        **_ADAMW,
        "batch_size": 1024,
        "total_epochs": epochs,
        "augment": f"inception_crop(224, method='bicubic')|flip|{_RAND_M9}|erase(0.25, 'pixel')"
        "|mixup_or_cutmix(0.8, 1.0, 0.5)",
        "eval_preprocess": _EVAL_BICUBIC,
        "loss.label_smoothing": 0.1,
        "model.drop_path_rate": drop_path,
        "model.pool": "mean",  # --global_pool
        "model.class_token": True,
        "model.fc_norm": True,
        "optim.learning_rate": rate,  # --blr
        "optim.base_batch_size": 256,
        "optim.layer_decay": layer_decay,
        "optim.weight_decay": 0.05,
        "optim.rules": _NOT_DECAYED,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 5.0,
        "schedule.end_factor": 1e-6 / (rate * 1024 / 256),  # --min_lr
    }


def _mae_probe(epochs: float):
    return {
        "batch_size": 16384,
        "total_epochs": epochs,
        "augment": "inception_crop(224, method='bicubic')|flip",
        "eval_preprocess": _EVAL_BICUBIC,
        "model.head_norm": True,
        "optim.name": "lars",
        "optim.momentum": 0.9,
        "optim.trust_coefficient": 0.001,  # util/lars.py
        "optim.learning_rate": 0.1,
        "optim.base_batch_size": 256,
        "optim.weight_decay": 0.0,
        "optim.rules": ("head/.*: train", ".*: freeze"),
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 10.0,
        "schedule.end_factor": 0.0,
    }


RECIPES = {
    "resnet:imagenet2012,recipe=v1": Recipe(
        _TORCHVISION,
        {
            "batch_size": 8 * 32,
            "total_epochs": 90.0,
            "augment": "inception_crop(224)|flip",
            "eval_preprocess": "resize_small(256)|central_crop(224)",
            "optim.name": "sgd",
            "optim.momentum": 0.9,
            "optim.learning_rate": 0.1,
            "optim.weight_decay": 1e-4,
            "optim.rules": (),
            "schedule.name": "step",
            "schedule.every_epochs": 30.0,  # --lr-step-size
            "schedule.decay_factor": 0.1,  # --lr-gamma
        },
    ),
    "resnet:imagenet2012,recipe=v2": Recipe(
        _TORCHVISION + "; pytorch/vision issue 3995",
        {
            "batch_size": 8 * 128,
            "total_epochs": 600.0,
            "image_size": 176,
            "augment": "repeat(4)|inception_crop(176)|flip|trivialaugment"
            f"|erase(0.1, {_TORCHVISION_ERASE})|mixup_or_cutmix(0.2, 1.0, 0.5)",
            "eval_preprocess": "resize_small(232)|central_crop(224)",
            "loss.label_smoothing": 0.1,
            "optim.name": "sgd",
            "optim.momentum": 0.9,
            "optim.learning_rate": 0.5,
            "optim.weight_decay": 2e-5,
            "optim.rules": (".*(bn\\d|downsample_1)/(bias|scale): decay=0",),  # --norm-weight-decay
            "schedule.name": "cosine",
            "schedule.warmup_epochs": 5.0,
            "schedule.warmup_factor": 0.01,
            "ema.decay": _torchvision_ema(0.99998, 1024, 600),
        },
    ),
    "vit_b16:imagenet2012,recipe=torchvision": Recipe(
        _TORCHVISION,
        {
            **_ADAMW,
            "batch_size": 8 * 512,
            "total_epochs": 300.0,
            # --auto-augment ra: strength 9 of 30; one of its fourteen operations is the identity.
            "augment": "repeat(3)|inception_crop(224)|flip"
            "|randaugment(2, 3, probability=0.93, fill=0.0)|mixup_or_cutmix(0.2, 1.0, 0.5)",
            "eval_preprocess": "resize_small(256)|central_crop(224)",
            "loss.label_smoothing": 0.11,
            "model.dtype": "bfloat16",  # --amp
            "optim.learning_rate": 3e-3,
            "optim.weight_decay": 0.3,
            "optim.rules": (),
            "optim.clip_norm": 1.0,
            "schedule.name": "cosine",
            "schedule.warmup_epochs": 30.0,
            "schedule.warmup_factor": 0.033,
            "ema.decay": _torchvision_ema(0.99998, 4096, 300),
        },
    ),
    "vit_s16:imagenet2012": Recipe(
        _PLAIN,
        {
            **_ADAMW,
            "data.train_split": "train[:99%]",
            "batch_size": 1024,
            "total_epochs": 90.0,
            # big_vision: inception crops cover at least 5 % of the area by default.
            "augment": "inception_crop(224, 0.05)|flip|randaugment(2, 10, increasing=False)"
            "|mixup(0.2)",
            "eval_preprocess": "resize_small(256)|central_crop(224)",
            "model.pool": "mean",
            "model.pos_embed": "sincos",
            "model.dtype": "bfloat16",
            "optim.moment_dtype": "bfloat16",
            "optim.learning_rate": 1e-3,
            "optim.weight_decay": 1e-4 / 1e-3,  # big_vision: not multiplied by the learning rate
            "optim.rules": _NOT_DECAYED,
            "optim.clip_norm": 1.0,
            "schedule.name": "cosine",
            "schedule.warmup_steps": 10000,
        },
    ),
    "deit:imagenet2012": Recipe(
        _DEIT,
        {
            **_ADAMW,
            "batch_size": 4 * 256,
            "total_epochs": 300.0,
            "augment": f"repeat(3)|inception_crop(224, method='bicubic')|flip|{_RAND_M9}"
            "|erase(0.25, 'pixel')|mixup_or_cutmix(0.8, 1.0, 0.5)",
            "eval_preprocess": _EVAL_BICUBIC,
            "loss.label_smoothing": 0.1,
            "distill.kind": "hard",
            "model.drop_path_rate": 0.1,
            "optim.learning_rate": 5e-4,
            "optim.base_batch_size": 512,
            "optim.weight_decay": 0.05,
            "optim.rules": _NOT_DECAYED,
            "schedule.name": "cosine",
            "schedule.warmup_epochs": 5.0,
            "schedule.warmup_factor": 1e-6 / 1e-3,  # --warmup-lr
            "schedule.end_factor": 1e-5 / 1e-3,  # --min-lr
            "ema.decay": 0.99996,
        },
    ),
    "swin:imagenet2012": Recipe(_SWIN, _swin(0.2)),
    "swin:imagenet2012,model=swin_s": Recipe(_SWIN, _swin(0.3)),
    "swin:imagenet2012,model=swin_b": Recipe(_SWIN, _swin(0.5)),
    # Sizes of the resized test images: metadata of the published weights.
    "swin:imagenet2012,recipe=torchvision": Recipe(_TORCHVISION, _torchvision_swin(0.2, 232)),
    "swin:imagenet2012,model=swin_s,recipe=torchvision": Recipe(
        _TORCHVISION, _torchvision_swin(0.3, 246)
    ),
    "swin:imagenet2012,model=swin_b,recipe=torchvision": Recipe(
        _TORCHVISION, _torchvision_swin(0.5, 238)
    ),
    "mae:imagenet2012": Recipe(
        _MAE_PRETRAIN,
        {
            "batch_size": 4096,
            "total_epochs": 800.0,
            "augment": "inception_crop(224, 0.2, 1.0, method='bicubic')|flip",
            "eval_preprocess": _EVAL_BICUBIC,
            "model.mask_ratio": 0.75,
            "model.masking": "random",
            "model.norm_pix_loss": True,
            "optim.name": "adamw",
            "optim.b1": 0.9,
            "optim.b2": 0.95,
            "optim.learning_rate": 1.5e-4,
            "optim.base_batch_size": 256,
            "optim.weight_decay": 0.05,
            "optim.rules": (".*(bias|scale): decay=0",),
            "schedule.name": "cosine",
            "schedule.warmup_epochs": 40.0,
            "schedule.end_factor": 0.0,
        },
    ),
    "mae_finetune:imagenet2012": Recipe(_MAE_FINETUNE, _mae_finetune(100.0, 5e-4, 0.65, 0.1)),
    "mae_finetune:imagenet2012,model=vit_l16": Recipe(
        _MAE_FINETUNE, _mae_finetune(50.0, 1e-3, 0.75, 0.2)
    ),
    "mae_finetune:imagenet2012,model=vit_h14": Recipe(
        _MAE_FINETUNE, _mae_finetune(50.0, 1e-3, 0.75, 0.3)
    ),
    "mae_probe:imagenet2012": Recipe(_MAE_PROBE, _mae_probe(90.0)),
    "mae_probe:imagenet2012,model=vit_l16": Recipe(_MAE_PROBE, _mae_probe(50.0)),
    "cifar_speedrun:cifar10": Recipe(
        _AIRBENCH,
        {
            "batch_size": 2000,
            "total_epochs": 8.0,
            "augment": "alternating_flip|pad_crop(2, 'reflect')",  # flip, translate=2
            "eval_preprocess": "diagonal_shifts|flips",  # tta_level=2
            "loss.label_smoothing": 0.2,
            "model.widths": (64, 256, 256),
            "model.norm_momentum": 0.6,
            "optim.name": "muon",
            "optim.learning_rate": 0.24,
            "optim.momentum": 0.6,
            "optim.muon_iterations": 3,  # zeropower_via_newtonschulz5(G, steps=3)
            "optim.muon_scale": "none",
            "optim.muon_keep_norms": True,
            "optim.others": "sgd",
            "optim.others_momentum": 0.85,
            "optim.nesterov": True,
            "optim.weight_decay": 2e-6,  # wd = 2e-6 * batch_size, for a loss summed over the batch
            "optim.rules": (
                "whiten/kernel: freeze",
                "whiten/bias: until=37.5%",  # whiten_bias_train_steps of 3 of 8 epochs
                # bias_lr=0.053 and head_lr=0.67, times 2000; weight_decay=wd/lr
                ".*bias: lr=441.666667 decay=18.8679245",
                "head/kernel: lr=5583.33333 decay=1.49253731",
                ".*: decay=0",
            ),
            "schedule.name": "linear",
            "schedule.end_factor": 0.0,
        },
    ),
}
