"""`predict` with a model that writes sequences, compared with the teacher-forced probabilities."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main
from cv_jax.data import strips
from cv_jax.interop import pretrained
from cv_jax.models import create
from cv_jax.models.decoder import BOS, EOS
from cv_jax.training import experiment, loop

SMALL = {
    "model.width": 16,
    "model.num_heads": 2,
    "model.depth": 1,
    "model.decoder_depth": 1,
    "mesh.devices": 1,
    "batch_size": 16,
    "total_steps": 30,
    "optim.learning_rate": 0.01,
    "eval.batch_size": 24,
    "eval.beams": 0,
    "eval.max_length": 7,
}


@pytest.fixture(scope="module")
def run(load_config, numbers_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "run"
    values = {**SMALL, "data.dir": numbers_dir}
    config = load_config("image_transformer", values, "numbers")
    assert loop.train(experiment.build(config), path, "") == 0
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("strips") / "strip.png"
    Image.fromarray(strips.example("test", 0).image).save(path)
    return path


def log_probability(run, image, sequence):
    """Return the log-probability of a sequence that ends within the limit, by one pass."""
    found = pretrained.read_run(run)
    fields = {**found.weights.fields, "image_size": (16, 112)}
    model = create("image_transformer_ti", **fields)
    x = (image[None, ..., None] / 255 - 0.280) / 0.186
    tokens = [k + 3 for k in sequence] + [EOS]
    target = np.array([[BOS, *tokens[:-1]]])
    logits, _ = model.apply(found.weights.variables, jnp.asarray(x, jnp.float32), target)
    return float(jax.nn.log_softmax(logits)[0, np.arange(len(tokens)), tokens].sum())


@pytest.mark.slow
def test_sequences_and_their_probabilities(run, file, capsys):
    capsys.readouterr()
    assert main(["predict", str(run), str(file), "--json", "--top=3"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert len(found) == 3
    values = [row["probability"] for row in found]
    assert values == sorted(values, reverse=True)
    image, checked = strips.example("test", 0).image, 0
    for row in found:
        assert row["name"] == "".join(map(str, row["sequence"]))
        if len(row["sequence"]) < 7:  # it has an end
            expected = np.exp(log_probability(run, image, row["sequence"]))
            np.testing.assert_allclose(row["probability"], expected, rtol=1e-3)
            checked += 1
    assert checked
    assert main(["predict", str(run), str(file), "--top=1"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{file}: {found[0]['name']} {values[0]:.2%}")


@pytest.mark.slow
def test_a_converted_file_predicts_the_same(run, file, tmp_path, capsys):
    out = tmp_path / "numbers.safetensors"
    assert main(["convert", str(run), str(out)]) == 0
    lines = []
    for model in (run, out):
        capsys.readouterr()
        assert main(["predict", str(model), str(file), "--top=2"]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_views_are_refused(run, file, capsys):
    assert main(["predict", str(run), str(file), "--preprocess=flips"]) == 2
    assert "only classifiers average views" in capsys.readouterr().err


@pytest.mark.slow
def test_attention_pictures(run, file, tmp_path, numbers_dir, capsys):
    capsys.readouterr()
    assert main(["look", str(run), "attention", "--count=3", f"--out={tmp_path / 'a'}"]) == 0
    assert "cross_attention: mean centre" in capsys.readouterr().out
    assert (tmp_path / "a" / "cross_attention.png").is_file()
    out = f"--out={tmp_path / 'b'}"
    assert main(["look", str(run), "attention", out, "--images", str(file)]) == 0
    assert main(["look", str(run), "projection", "errors", f"--out={tmp_path / 'c'}"]) == 0
    printed = capsys.readouterr().out
    assert "projection: does not apply: it needs one class for each image" in printed
    assert "errors: does not apply" in printed
