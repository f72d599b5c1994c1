"""`templates` draws the data and names of the training, not those of the folder as it is now."""

import json

import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main
from cv_jax.training import experiment, loop


def make_folder(root, names):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


@pytest.fixture
def run(load_config, tmp_path):
    make_folder(tmp_path / "photos", ("10", "2", "cat"))
    assert main(["prepare", f"folder:{tmp_path}/photos", "--to", f"{tmp_path}/records"]) == 0
    values = {"data.name": f"records:{tmp_path}/records", "data.eval_split": "val"}
    values |= {"data.mean": 0.5, "data.std": 0.5, "image_size": 8, "total_steps": 2}
    values |= {"batch_size": 4, "mesh.devices": 1, "schedule.warmup_epochs": 0}
    assert loop.train(experiment.build(load_config("linear", values)), tmp_path / "run", "") == 0
    return tmp_path / "run"


def test_names_and_data_are_those_of_the_training(run, tmp_path, capsys):
    assert main(["templates", str(run)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[-4:-1]] == ["10", "2", "cat"]
    index = tmp_path / "records" / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "classes": ["x", "y", "z"]}))
    assert main(["templates", str(run), "--force"]) == 0
    assert capsys.readouterr().out == said[said.index("10 ") :]

    content["splits"]["train"][0]["sha256"] = "0"
    index.write_text(json.dumps(content))
    (run / "templates.png").unlink()
    assert main(["templates", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {run} was not trained on records:{tmp_path}/records as it is now: train.checksum: "
    )
    assert error.count("\n") == 1
    assert not (run / "templates.png").exists()
