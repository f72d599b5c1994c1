"""Conversion of Google's `.npz` files by the command, in both naming schemes."""

import jax
import numpy as np
import pytest

from cv_jax import __main__, models
from cv_jax.interop import saved
from cv_jax.interop.big_vision import plain_names

WIDTH, HEADS, HEAD, CLASSES = 12, 3, 4, 5
ARGUMENTS = ("--model", "vit_ti16", "--source", "big_vision", "--image-size", "32")
FIELDS = ("--fields", f"width={WIDTH},depth=2")
_BLOCK = "Transformer/encoderblock_{}"
_ATTENTION = _BLOCK + "/MultiHeadDotProductAttention_1"


@pytest.fixture(scope="module")
def arrays():
    """A ViT of two blocks and four patches with vision_transformer's names, all arrays random."""
    rng = np.random.default_rng(0)
    shapes = {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (16, 16, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, 5, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (WIDTH, CLASSES),
        "head/bias": (CLASSES,),
    }
    for i in range(2):
        block, attention = _BLOCK.format(i), _ATTENTION.format(i)
        for name in ("query", "key", "value"):
            shapes[f"{attention}/{name}/kernel"] = (WIDTH, HEADS, HEAD)
            shapes[f"{attention}/{name}/bias"] = (HEADS, HEAD)
        shapes[f"{attention}/out/kernel"] = (HEADS, HEAD, WIDTH)
        shapes[f"{attention}/out/bias"] = (WIDTH,)
        for layer in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{block}/{layer}/scale"] = shapes[f"{block}/{layer}/bias"] = (WIDTH,)
        shapes[f"{block}/MlpBlock_3/Dense_0/kernel"] = (WIDTH, 4 * WIDTH)
        shapes[f"{block}/MlpBlock_3/Dense_0/bias"] = (4 * WIDTH,)
        shapes[f"{block}/MlpBlock_3/Dense_1/kernel"] = (4 * WIDTH, WIDTH)
        shapes[f"{block}/MlpBlock_3/Dense_1/bias"] = (WIDTH,)
    return {key: rng.random(shape, np.float32) for key, shape in shapes.items()}


def run(capsys, *arguments):
    """Return (exit code, standard output, standard error)."""
    code = __main__.main(["convert", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_round_trip(arrays, capsys, tmp_path):
    theirs, ours, back = (tmp_path / name for name in ("a.npz", "b.safetensors", "c.npz"))
    np.savez(theirs, **arrays)
    code, out, error = run(capsys, theirs, ours, *ARGUMENTS, *FIELDS)
    parameters = sum(x.size for x in arrays.values())
    assert (code, error) == (0, "")
    assert out == f"{ours}: vit_ti16 as ours, {parameters:,} parameters\n"
    weights = saved.read(ours)
    qkv = weights.variables["params"]["blocks_1"]["attn"]["qkv"]["kernel"]
    key = arrays[f"{_ATTENTION.format(1)}/key/kernel"]
    assert np.array_equal(qkv[:, WIDTH : 2 * WIDTH], key.reshape(WIDTH, WIDTH))
    model = models.create(weights.model, image_size=weights.image_size, **weights.fields)
    logits, _ = jax.jit(model.apply)(weights.variables, np.ones((1, 32, 32, 3), np.float32))
    assert logits.shape == (1, CLASSES)
    # The suffix alone selects the original layout.
    assert run(capsys, ours, back)[0] == 0
    with np.load(back) as file:
        assert same(dict(file), arrays)


@pytest.mark.parametrize("prefix", ["opt/target/", "params/", "params/img/"])
def test_only_the_weights_of_a_training_state_are_read(arrays, capsys, tmp_path, prefix):
    state = {prefix + key: x for key, x in arrays.items()}
    state["opt/state/step"] = np.zeros(())
    np.savez(tmp_path / "state.npz", **state)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.npz"
    code, _, error = run(capsys, tmp_path / "state.npz", ours, *ARGUMENTS, *FIELDS)
    assert (code, error) == (0, "")
    assert run(capsys, ours, back)[0] == 0
    with np.load(back) as file:
        assert same(dict(file), arrays)


def test_big_vision_names_and_stacked_blocks(arrays):
    """big_vision's names and stacked layers become vision_transformer's."""
    renamed = {
        key.replace("posembed_input/pos_embedding", "pos_embedding")
        .replace("Transformer/pos_embedding", "pos_embedding")
        .replace("LayerNorm_2", "LayerNorm_1")
        .replace("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0")
        .replace("MlpBlock_3", "MlpBlock_0"): x
        for key, x in arrays.items()
    }
    assert same(plain_names(renamed), arrays)
    first, second = (_BLOCK.format(i) for i in range(2))
    stacked = {key: x for key, x in renamed.items() if "encoderblock" not in key}
    for key, x in renamed.items():
        if key.startswith(first):
            pair = [x, renamed[key.replace(first, second)]]
            stacked[key.replace(first, "Transformer/encoderblock")] = np.stack(pair)
    assert same(plain_names(stacked), arrays)
    # Attention and MLP of the pooling layer keep their names.
    pooled = {**renamed, "MAPHead_0/MlpBlock_0/Dense_0/bias": np.zeros(4)}
    assert "MAPHead_0/MlpBlock_0/Dense_0/bias" in plain_names(pooled)


def test_positions_of_patches_alone(arrays, capsys, tmp_path):
    """big_vision adds positions before the class token: `pos_embed_prefix=False`."""
    own = {key.replace("Transformer/posembed_input/", ""): x for key, x in arrays.items()}
    own["pos_embedding"] = own["pos_embedding"][:, 1:]
    np.savez(tmp_path / "own.npz", **own)
    place, ours, back = tmp_path / "own.npz", tmp_path / "ours.safetensors", tmp_path / "back.npz"
    code, _, error = run(capsys, place, ours, *ARGUMENTS, *FIELDS)
    assert code == 2
    assert "set the field pos_embed_prefix=False" in error
    assert error.count("\n") == 1
    fields = ("--fields", f"{FIELDS[1]},pos_embed_prefix=False")
    assert run(capsys, place, ours, *ARGUMENTS, *fields)[0] == 0
    weights = saved.read(ours)
    positions = weights.variables["params"]["pos_embed"]
    assert np.array_equal(positions, own["pos_embedding"])
    assert run(capsys, ours, back)[0] == 0
    with np.load(back) as file:
        assert same(dict(file), plain_names(own))


def test_a_folder_is_not_for_big_vision(capsys, tmp_path):
    ours, folder = tmp_path / "ours.safetensors", tmp_path / "folder"
    model = models.create("vit_ti16", image_size=32, num_classes=3)
    image = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    saved.write(ours, saved.Saved(variables, "vit_ti16", {"num_classes": 3}, (32, 32), 3))
    code, _, error = run(capsys, ours, folder, "--to", "big_vision")
    assert code == 2
    assert error.startswith("error: config.json in a folder is timm's; for big_vision, write a fi")
    assert error.count("\n") == 1
    assert not folder.exists()


def test_mistakes(arrays, capsys, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    place, ours = tmp_path / "a.npz", tmp_path / "b.safetensors"
    code, _, error = run(capsys, place, ours)
    assert code == 2
    assert error.startswith(f"error: {place} does not name its layout; add --source")
    assert error.count("\n") == 1
    code, _, error = run(
        capsys, place, ours, "--model", "resnet18", "--source", "big_vision", "--image-size", "32"
    )
    assert code == 2
    assert error.startswith("error: big_vision has no counterpart of model 'resnet18'; it has vit_")
    assert error.count("\n") == 1
    assert not ours.exists()
    # A damaged file.
    place.write_bytes(b"PK\x03\x04 cut off")
    code, _, error = run(capsys, place, ours, *ARGUMENTS, *FIELDS)
    assert code == 2
    assert error.startswith(f"error: cannot read {place}: ")
    assert error.count("\n") == 1
