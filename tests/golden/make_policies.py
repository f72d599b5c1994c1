"""Writes policies.json: magnitudes and policies of timm and torchvision.

    python tests/golden/make_policies.py

Needs torch, torchvision and timm (`pip install "cv_jax[parity]"`); the tests do not.
"""

import json
import pathlib
import random
import sys
import types

# torchvision's compiled operators do not load with a CPU build of torch; transforms need none.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

from timm.data import auto_augment as timm  # noqa: E402
from torchvision.transforms import autoaugment as tv  # noqa: E402

SIZE = (48, 36)  # height, width
MAGNITUDES = [0.0, 0.7, 2.5, 4.0, 6.3, 9.0, 10.0]


def timm_scales(names):
    """Return operation → its argument at each magnitude, with the positive sign."""
    random.random = lambda: 0.0  # timm keeps the sign
    hparams = {"translate_pct": 0.45}
    scales = {}
    for name in names:
        function = timm.LEVEL_TO_ARG[name]
        if function is not None:
            scales[name] = [function(m, hparams)[0] for m in MAGNITUDES]
    return scales


def torchvision_scales(space):
    """Return operation → magnitudes by bin (none for a single bin), and whether they are signed."""
    return {name: [values.tolist(), signed] for name, (values, signed) in space.items()}


def main():
    """Collect the values and write the file."""
    wide, auto = tv.TrivialAugmentWide(), tv.AutoAugment()
    golden = {
        "size": SIZE,
        "magnitudes": MAGNITUDES,
        "randaugment_increasing": timm_scales(timm._RAND_INCREASING_TRANSFORMS),
        "randaugment": timm_scales(timm._RAND_TRANSFORMS),
        "trivialaugment": torchvision_scales(wide._augmentation_space(31)),
        "autoaugment": torchvision_scales(auto._augmentation_space(10, SIZE)),
        "policies": {policy.value: auto._get_policies(policy) for policy in tv.AutoAugmentPolicy},
    }
    path = pathlib.Path(__file__).parent / "policies.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
