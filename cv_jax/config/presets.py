"""Initial values of config fields for known datasets."""

from typing import Any

# Mean and standard deviation of the training images for each channel, on the scale 0…1.
# digits, digits_canvas, numbers: computed from the arrays; the others: the commonly used values.
PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 32, "data.mean": (0.305,), "data.std": (0.376,)},
    "digits_canvas": {"image_size": 64, "data.mean": (0.269,), "data.std": (0.179,)},
    "numbers": {
        "image_size": (16, 112),
        "data.mean": (0.280,),
        "data.std": (0.186,),
        "data.target": "sequence",
    },
    "mnist": {"image_size": 32, "data.mean": (0.1307,), "data.std": (0.3081,)},
    "cifar10": {
        "image_size": 32,
        "data.mean": (0.4914, 0.4822, 0.4465),
        "data.std": (0.2470, 0.2435, 0.2616),
    },
    "imagenet2012": {
        "image_size": 224,
        "data.mean": (0.485, 0.456, 0.406),
        "data.std": (0.229, 0.224, 0.225),
        "data.eval_split": "validation",
        "eval_preprocess": "resize_small(256)|central_crop(224)",
    },
    # Any folder of photographs.
    "folder": {
        "image_size": 224,
        "data.mean": (0.485, 0.456, 0.406),
        "data.std": (0.229, 0.224, 0.225),
        "data.eval_split": "val",
        "eval_preprocess": "resize_small(256)|central_crop(224)",
    },
}
