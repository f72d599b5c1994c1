"""What augmentation and a convolutional teacher bring to a small ViT (DeiT).

    python launch.py --config configs/experiments/teachers.py:net=teacher --sweep=teacher \\
        --seeds 1 --sweep_dir runs/teacher
    python launch.py --config configs/experiments/teachers.py:teacher=RUN --sweep --seeds 3
    python launch.py --config configs/experiments/teachers.py:cifar10,teacher=RUN --sweep --seeds 3
    python -m cv_jax report SWEEP_DIR

RUN is the run directory of the teacher, such as `runs/teacher/seed=0`: a residual network that has
seen all training images, with random crops. The students see few images on digits: 20 of each
class, at 16 pixels with patches of 4. The recipe is that of `configs/deit.py`.
"""

from pathlib import Path

from cv_jax import config
from cv_jax.config.files import from_file

RECIPES = Path(__file__).resolve().parent.parent
STUDENTS = ("plain", "augmented", "taught", "augmented_and_taught")
OPTIONS = dict(net=(*STUDENTS, "teacher"), teacher="", epochs=0.0)


def get_config(arg=""):
    dataset, options = config.parse_argument(arg, **OPTIONS)
    digits = dataset == "digits"
    crops = f"pad_crop({2 if digits else 4})"
    if options["net"] == "teacher":
        model = "resnet8_cifar" if digits else "resnet20_cifar"
        c = from_file(RECIPES / "resnet20_cifar.py", f"{dataset},model={model},epochs=10")
        c.batch_size = 32
        c.augment = crops
        c.total_epochs = options["epochs"] or 10.0
    else:
        c = from_file(RECIPES / "deit.py", f"{dataset},model=deit_ti16_distilled")
        _student(c, options, digits, crops)
    c.image_size = 16 if digits else 32
    c.eval.every_epochs = c.checkpoint.every_epochs = c.total_epochs / 2
    return c


def _student(c, options, digits, crops):
    c.model.width, c.model.depth, c.model.num_heads = 64, 4, 2
    c.model.patch_size = 4
    c.augment = crops if "augmented" in options["net"] else ""
    taught = "taught" in options["net"]
    c.model.distilled = taught
    if taught:
        c.distill.teacher = options["teacher"] or None
    if digits:
        c.data.per_class = 20
    c.total_epochs = options["epochs"] or (180.0 if digits else 20.0)


def sweep():
    """Students with and without augmentation, with and without a teacher."""
    for net in STUDENTS:
        yield {"net": net}


def sweep_teacher():
    """The teacher, with the argument net=teacher: its folder is named by the seed only."""
    yield {}
