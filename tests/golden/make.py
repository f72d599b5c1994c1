"""Writes the golden files: python tests/golden/make.py [CASE…]

Needs torch, torchvision and timm (`pip install "cv_jax[parity]"`); the tests do not. For each case
of `cases.py` the script builds the reference network with the recipe's weights and images, and
stores

  shapes/<case>.json       key → shape of the network's state dict
  logits/<case>.npy        logits float32 [batch, classes], computed in float64
  gradients/<case>.json    parameter → `recipe.summary` of the gradient of Σ c·logits, where c is
                           `recipe.draw("cotangent", …)`, in training mode without dropout
  statistics/<case>.npz    running means and variances after `STEPS` steps of plain gradient descent
                           on the cross-entropy
"""

import json
import pathlib
import sys
import types

# torchvision's compiled operators do not load with a CPU build of torch; networks need none.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import cases  # noqa: E402
import numpy as np  # noqa: E402
import recipe  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402

FOLDER = pathlib.Path(__file__).parent


def build(case: cases.Case) -> torch.nn.Module:
    """Return the reference network in float64 with the recipe's weights, without dropout."""
    create = torchvision.models.get_model if case.source == "torchvision" else timm.create_model
    network = create(case.reference, **case.arguments).double().eval()
    shapes = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not recipe.CONSTANTS.fullmatch(key)
    }
    weights = recipe.state_dict(shapes)
    weights = {key: torch.from_numpy(value) for key, value in weights.items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(recipe.CONSTANTS.fullmatch(key) for key in missing)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0  # no dropout, no stochastic depth
    write("shapes", f"{case.name}.json", lambda path: dump(shapes, path))
    return network


def images(case: cases.Case) -> torch.Tensor:
    """Return the recipe's images, channels first, in float64."""
    array = recipe.images(case.batch, case.image_size)
    return torch.from_numpy(np.moveaxis(array, -1, 1).astype(np.float64))


def make_logits(case: cases.Case):
    with torch.inference_mode():
        logits = build(case)(images(case)).numpy().astype(np.float32)
    write("logits", f"{case.name}.npy", lambda path: np.save(path, logits))


def make_gradients(case: cases.Case):
    network = build(case).train()
    logits = network(images(case))
    cotangent = recipe.draw("cotangent", tuple(logits.shape)).astype(np.float64)
    (logits * torch.from_numpy(cotangent)).sum().backward()
    summaries = {
        key: recipe.summary(key, parameter.grad.numpy()).tolist()
        for key, parameter in network.named_parameters()
    }
    write("gradients", f"{case.name}.json", lambda path: dump(summaries, path))


def make_statistics(case: cases.Case):
    network = build(case).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=cases.LEARNING_RATE)
    for step in range(cases.STEPS):
        image = recipe.images(case.batch, case.image_size, key=f"step {step}")
        image = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float64))
        loss = torch.nn.functional.cross_entropy(network(image), torch.arange(case.batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    statistics = {
        key: value.numpy().astype(np.float32)
        for key, value in network.state_dict().items()
        if key.endswith(("running_mean", "running_var"))
    }
    write("statistics", f"{case.name}.npz", lambda path: np.savez_compressed(path, **statistics))


def write(folder: str, name: str, save):
    path = FOLDER / folder / name
    path.parent.mkdir(exist_ok=True)
    save(path)
    print(path.relative_to(FOLDER), path.stat().st_size, "bytes", flush=True)


def dump(value, path: pathlib.Path):
    lines = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(names: list[str]):
    jobs = [(make_logits, case) for case in cases.LOGITS]
    jobs += [(make_gradients, case) for case in cases.GRADIENTS]
    jobs += [(make_statistics, case) for case in cases.STATISTICS]
    for job, case in jobs:
        if not names or case.name in names:
            job(case)


if __name__ == "__main__":
    main(sys.argv[1:])
