"""Measure training steps of one case with PyTorch; a process of `benchmarks.step`.

The networks are those of timm, of `transformers` for masked autoencoders, and two short ones that
these libraries do not have. They are tuned as their users would: `torch.compile`, autocast to
bfloat16, fused optimiser, TF32, for convolutional networks channels-last arrays, and normalisation
of uint8 batches on the device, as timm's loader does. Nothing of `cv_jax` is imported.
"""

import argparse
import resource
import time

import torch
from torch import nn

from benchmarks import timing, turns
from benchmarks.step_cases import CASES, TINY, Case


class Residual(nn.Module):
    """Basic block with zero-padded shortcuts (He et al., 2015, section 4.2, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.more)))


def resnet20(classes: int) -> nn.Module:
    """Return the residual network of 20 layers for images of 32 pixels."""
    blocks, inputs = [], 16
    for width in (16, 32, 64):
        for i in range(3):
            blocks.append(Residual(inputs, width, 2 if i == 0 and width > 16 else 1))
            inputs = width
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)
    return nn.Sequential(*stem, *blocks, *head)


def lenet5(classes: int) -> nn.Module:
    """Return LeNet-5 with tanh and average pooling, as `cv_jax`'s."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes)),
    )


def timm_network(case: Case) -> nn.Module:
    """Return a network of timm, without stochastic depth."""
    import timm

    options = {} if case.sgd else {"img_size": case.size, "drop_path_rate": 0.0}
    return timm.create_model(case.peer[1], num_classes=case.classes, **options)


def masked_autoencoder(case: Case) -> nn.Module:
    """Return the masked autoencoder of `transformers`, with the loss of the paper."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    width, depth, heads = {"tiny": (32, 1, 2), "base": (768, 12, 12), "large": (1024, 24, 16)}[
        case.peer[1]
    ]
    small = case.peer[1] == "tiny"
    decoder = {
        **{"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1},
        **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 128},
    }
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=case.size,
            norm_pix_loss=True,
            **(decoder if small else {}),
        )
    )


def make_network(case: Case) -> nn.Module:
    """Return the peer's network of a case.

    Raises:
      ImportError: its library is not installed.
    """
    library, name = case.peer
    if library == "torch":
        return {"lenet5": lenet5, "resnet20_cifar": resnet20}[name](case.classes)
    return {"timm": timm_network, "transformers": masked_autoencoder}[library](case)


def make_step(case: Case, device: str, batch: int, dtype: str, compiled: bool):
    """Return a function that makes one training step and returns the loss."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    channels_last = "resnet" in case.model or "lenet" in case.model
    layout = {"memory_format": torch.channels_last} if channels_last else {}
    network = make_network(case).to(device).train().to(**layout)
    run = torch.compile(network) if compiled else network
    parameters, fused = network.parameters(), device == "cuda" or None
    if case.sgd:
        optimiser = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=1e-4, fused=fused)
    else:
        optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.05, fused=True)
    shape = batch, 3, case.size, case.size
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).to(**layout)
    labels = torch.randint(0, case.classes, (batch,), device=device)
    # ImageNet's mean and standard deviation.
    mean, std = (
        255 * torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    score = nn.CrossEntropyLoss()
    half = dtype == "bfloat16"

    def step():
        optimiser.zero_grad(set_to_none=True)
        images = (pixels.float() - mean) / std
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = run(images).loss if case.masked else score(run(images), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def measure(step, device: str, batch: int, seconds: float, repetitions: int) -> dict:
    """Time the steps; return a row of results."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    began = time.perf_counter()
    step()
    wait()
    row = {"compile_seconds": time.perf_counter() - began}
    turns.hold_device()  # compiling is work of the CPU: the device is used for one step
    began = time.perf_counter()
    for _ in range(2):
        loss = step()
    row["loss"] = loss.item()
    row["warm_up_seconds"] = time.perf_counter() - began
    row["images_per_second"] = timing.speeds(step, lambda _: wait(), batch, seconds, repetitions)
    if device == "cuda":
        return {**row, "peak_bytes": torch.cuda.max_memory_allocated()}
    return {**row, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main():
    """Measure one case and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case")
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--tiny", action="store_true")
    flags = parser.parse_args()
    case = (TINY if flags.tiny else CASES)[flags.case]
    device = "cuda" if flags.device == "gpu" else "cpu"
    step = make_step(case, device, flags.batch, flags.dtype, not flags.eager)
    row = measure(step, device, flags.batch, flags.seconds, flags.repetitions)
    turns.report(**row, versions={case.peer[0]: version(case.peer[0]), "torch": torch.__version__})


def version(package: str) -> str:
    """Return the version of an installed package."""
    import importlib.metadata

    return importlib.metadata.version(package)


if __name__ == "__main__":
    main()
