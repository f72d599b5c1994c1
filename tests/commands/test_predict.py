"""`predict` compared with NumPy, its names, its image files, and its error messages."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main
from cv_jax.data import sources
from cv_jax.interop import disk, pretrained, saved
from cv_jax.interop.target import Target, unflatten
from cv_jax.training import experiment, loop


def trained(load_config, path, name="linear", overrides=None):
    config = load_config(name, {"total_steps": 20, "batch_size": 64, **(overrides or {})})
    assert loop.train(experiment.build(config), path, "") == 0
    return path


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    return trained(load_config, tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def files(data_dir, tmp_path_factory):
    """(paths, images float [N, 32, 32], labels) of 40 test images: more than one batch."""
    folder, source = (
        tmp_path_factory.mktemp("digits"),
        sources.open_source("digits", "test", data_dir),
    )
    paths, images, labels = [], [], []
    for i in range(40):
        pixels, label = source.example(i)
        image = Image.fromarray(pixels[..., 0])
        # A model for grey images reads colour files as grey.
        paths.append(str(folder / f"{i}.png"))
        (image.convert("RGB") if i % 2 else image).save(paths[-1])
        images.append(np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), float))
        labels.append(label)
    return paths, np.stack(images), np.array(labels)


def probabilities(path, images):
    """Return the probabilities of the trained linear classifier, float [N, 10]."""
    run = pretrained.read_run(path)
    head = run.weights.variables["params"]["head"]
    normalised = (images / 255 - run.config["data.mean"]) / run.config["data.std"]
    scores = normalised.reshape(len(images), -1) @ head["kernel"] + head["bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def predictions(capsys, *arguments):
    capsys.readouterr()  # drop the output of training
    assert main(["predict", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check(found, paths, expected):
    assert [prediction["image"] for prediction in found] == paths
    for prediction, wanted in zip(found, expected, strict=True):
        order = [entry["class"] for entry in prediction["predictions"]]
        np.testing.assert_allclose(
            [entry["probability"] for entry in prediction["predictions"]], wanted[order], rtol=1e-4
        )
        assert order == list(np.argsort(-wanted))
        assert [entry["name"] for entry in prediction["predictions"]] == [str(k) for k in order]


def test_probabilities_are_those_of_numpy(run, files, capsys):
    paths, images, labels = files
    found = predictions(capsys, run, *paths, "--json", "--top=10")
    check(found, paths, probabilities(run, images))
    right = [prediction["predictions"][0]["class"] for prediction in found] == labels
    assert right.mean() > 0.5


def test_views_are_averaged_as_in_the_runs_evaluation(load_config, files, tmp_path, capsys):
    """Six views: mirror images, and shifts with half of the weight."""
    paths, images, _ = files
    text = "resize(32)|diagonal_shifts|flips"
    path = trained(load_config, tmp_path / "run", overrides={"eval_preprocess": text})
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), "reflect")
    shares = ((0.5, images), (0.25, padded[:, :32, :32]), (0.25, padded[:, 2:, 2:]))
    expected = sum(
        share / 2 * (probabilities(path, view) + probabilities(path, view[:, :, ::-1]))
        for share, view in shares
    )
    check(predictions(capsys, path, *paths, "--json", "--top=10"), paths, expected)


def test_a_line_names_the_likeliest_classes(run, files, capsys):
    paths, images, _ = files
    assert main(["predict", str(run), paths[3], "--top=2"]) == 0
    wanted = probabilities(run, images[3:4])[0]
    first, second = np.argsort(-wanted)[:2]
    said = capsys.readouterr().out
    assert said == f"{paths[3]}: {first} {wanted[first]:.2%}, {second} {wanted[second]:.2%}\n"


def make_folder(root, files, names):
    """Write a folder dataset: class k has the images of digit k, under the name `names[k]`."""
    for path, label in zip(files[0], files[2], strict=True):
        if label < len(names):
            for split in ("train", "val"):
                (root / split / names[label]).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / split / names[label])
    return root


NAMES = ("10", "2", "cat")


@pytest.fixture(scope="module")
def named_run(load_config, files, tmp_path_factory):
    """A run on a folder of three classes that no longer exists."""
    folder = make_folder(tmp_path_factory.mktemp("named") / "photos", files, NAMES)
    data = {"data.name": f"folder:{folder}", "data.eval_split": "val", "image_size": 16}
    # The presets of digits have one channel; folder images have three.
    data |= {"data.mean": "0.5,0.4,0.3", "data.std": "0.5,0.4,0.3", "mesh.devices": 1}
    data |= {"eval_preprocess": "resize_small(18, 'bicubic')|central_crop(16)", "batch_size": 8}
    run = trained(load_config, folder.parent / "run", "resnet", {**data, **TINY})
    shutil.rmtree(folder)
    return run, folder


TINY = {"model.stage_sizes": "1,1", "model.widths": "4,8", "model.stem_width": "4"}


def test_names_are_those_of_the_training(named_run, files, tmp_path, capsys, monkeypatch):
    """They do not depend on the folder as it is now, or on the working directory."""
    run, folder = named_run
    images = files[0][:3]
    expected = predictions(capsys, run, *images, "--json", "--top=3")
    assert {(p["class"], p["name"]) for e in expected for p in e["predictions"]} == {
        (k, name) for k, name in enumerate(NAMES)
    }
    for changed in (("ant", *NAMES), NAMES[1:], ("x", "y", "z")):
        make_folder(folder, files, changed)
        assert predictions(capsys, run, *images, "--json", "--top=3") == expected
        shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path)
    assert predictions(capsys, run, *images, "--json", "--top=3") == expected
    assert capsys.readouterr().err == ""


def test_an_older_run_takes_names_only_from_its_own_data(
    named_run, load_config, files, tmp_path, capsys
):
    folder = make_folder(tmp_path / "photos", files, NAMES)
    data = {"data.name": f"folder:{folder}", "data.eval_split": "val", "image_size": 16}
    data |= {"data.mean": "0.5", "data.std": "0.5", "mesh.devices": 1, "batch_size": 8}
    run = trained(load_config, tmp_path / "run", overrides=data)
    (run / "classes.json").unlink()
    (row,) = predictions(capsys, run, files[0][0], "--json")
    assert {p["name"] for p in row["predictions"]} == set(NAMES)
    make_folder(folder, files, ("ant", "bee"))
    assert main(["predict", str(run), files[0][0], "--json"]) == 0
    said = capsys.readouterr()
    (row,) = map(json.loads, said.out.splitlines())
    assert {p["name"] for p in row["predictions"]} == {"0", "1", "2"}
    assert said.err == (
        f"note: classes are numbers, because {run} does not record their names and folder:{folder} "
        "is not the data of its training (train.splits, train.checksum differ)\n"
    )


def check_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["image"] == theirs["image"]
        for a, b in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert (a["class"], a["name"]) == (b["class"], b["name"])
            assert abs(a["probability"] - b["probability"]) < 1e-6


def test_converted_weights_predict_as_their_run(named_run, files, tmp_path, capsys):
    run, _ = named_run
    path = tmp_path / "weights.safetensors"
    assert main(["convert", str(run), str(path)]) == 0
    expected = predictions(capsys, run, *files[0], "--json", "--top=3")
    check_equal(predictions(capsys, path, *files[0], "--json", "--top=3"), expected)


def test_a_folder_for_timm_predicts_as_its_weights(files, tmp_path, capsys):
    variables = Target("vit_ti16", image_size=32, in_channels=3, num_classes=3)
    variables = unflatten(variables.initial(list(variables.shapes), seed=1))
    rng = np.random.default_rng(0)
    head = variables["params"]["head"]
    head["kernel"] = rng.normal(size=head["kernel"].shape).astype(np.float32)
    path, folder = tmp_path / "weights.safetensors", tmp_path / "hub"
    evaluation = {"eval_preprocess": "resize_small(36, 'bicubic')|central_crop(32)"}
    preprocessing = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    saved.write(
        path,
        saved.Saved(
            variables,
            "vit_ti16",
            {"num_classes": 3},
            (32, 32),
            3,
            preprocessing=preprocessing,
            class_names=NAMES,
            evaluation=evaluation,
        ),
    )
    assert main(["convert", str(path), str(folder), "--to", "timm"]) == 0
    expected = predictions(capsys, path, *files[0][:4], "--json", "--top=3")
    assert {p["name"] for p in expected[0]["predictions"]} == set(NAMES)
    check_equal(predictions(capsys, folder, *files[0][:4], "--json", "--top=3"), expected)


def test_weights_without_preprocessing_need_it_stated(named_run, files, tmp_path, capsys):
    run, _ = named_run
    path, image = tmp_path / "old.safetensors", files[0][0]
    weights = pretrained.read_run(run).weights
    saved.write(path, weights._replace(evaluation={}, preprocessing={}))
    assert main(["predict", str(path), image]) == 2
    assert capsys.readouterr().err == (
        f"error: {path} does not record how images are prepared; add "
        "--preprocess='resize_small(256)|central_crop(224)' and --mean=0.485,0.456,0.406 and "
        "--std=0.229,0.224,0.225, with the values of its training\n"
    )
    flags = [f"--preprocess={weights.evaluation['eval_preprocess']}"]
    flags += ["--mean=0.5,0.4,0.3", "--std=0.5,0.4,0.3", "--json"]
    assert predictions(capsys, path, image, *flags) == predictions(capsys, run, image, "--json")


def test_probabilities_of_a_sigmoid_survive_the_conversion(load_config, files, tmp_path, capsys):
    run = trained(load_config, tmp_path / "run", overrides={"loss.name": "sigmoid"})
    path = tmp_path / "weights.safetensors"
    assert main(["convert", str(run), str(path)]) == 0
    expected = predictions(capsys, run, files[0][0], "--json", "--top=10")
    assert predictions(capsys, path, files[0][0], "--json", "--top=10") == expected
    assert sum(p["probability"] for p in expected[0]["predictions"]) != pytest.approx(1, abs=1e-3)


# ---- Image files


def test_folders_and_patterns(run, files, tmp_path, capsys):
    paths, photos = files[0], tmp_path / "photos"
    for i, name in enumerate(("b/2.png", "b/10.PNG", "a.png", ".hidden.png", "b/notes.txt")):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[i], photos / name)
    wanted = [str(photos / name) for name in ("a.png", "b/10.PNG", "b/2.png")]
    assert main(["predict", str(run), str(photos), "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["image"] for line in said.out.splitlines()] == wanted
    assert said.err == f"note: {photos}: not read: .txt files: 1 (first: ./b/notes.txt)\n"
    for pattern, names in (
        (f"{photos}/*.png", wanted[:1]),
        (f"{photos}/**/*.png", [wanted[0], wanted[2]]),
        (f"{photos}/[b]", wanted[1:]),
    ):
        found = predictions(capsys, run, pattern, "--json")
        assert [entry["image"] for entry in found] == names
    # Every file once; a path with brackets that exists is not a pattern.
    odd = photos / "[b]"
    odd.mkdir()
    shutil.copy(paths[0], odd / "c.png")
    found = predictions(capsys, run, odd, wanted[1], photos / "b", "--json")
    assert [entry["image"] for entry in found] == [str(odd / "c.png"), *wanted[1:]]


def test_files_that_cannot_be_read_are_skipped_and_counted(run, files, tmp_path, capsys):
    paths, images, _ = files
    text, cut, empty = (tmp_path / name for name in ("notes.png", "cut.png", "empty.png"))
    text.write_text("no image")
    with open(paths[0], "rb") as file:
        cut.write_bytes(file.read()[:-40])
    empty.touch()
    given = [*paths[:10], cut, *paths[10:33], text, *paths[33:], empty]
    large = tmp_path / "large.png"
    Image.new("L", (100, 90)).save(large)
    given.append(large)
    flags = ["--json", "--top=10", "--max-pixels=8999"]
    assert main(["predict", *map(str, [run, *given]), *flags]) == 2
    said = capsys.readouterr()
    check([json.loads(line) for line in said.out.splitlines()], paths, probabilities(run, images))
    lines = said.err.splitlines()
    assert lines[0].startswith(f"skipped: {cut}: ")
    assert lines[1].startswith(f"skipped: {text}: unknown image format")
    assert lines[2] == f"skipped: {empty}: empty"
    assert lines[3] == (
        f"skipped: {large}: 9,000 pixels, more than the limit of 8,999 (config.data.max_pixels; "
        "--max-pixels of prepare and predict)"
    )
    assert lines[4:] == ["4 of 44 images were skipped"]


def test_images_that_do_not_fit_the_model_are_skipped(run, files, tmp_path, capsys):
    """Without a resize, images keep their sizes; a linear classifier takes one size."""
    large = tmp_path / "large\nname.png"
    Image.new("L", (40, 32)).save(large)
    Image.new("L", (32, 32)).save(tmp_path / "fits.png")
    arguments = [tmp_path / "fits.png", large, "--preprocess=mirror", "--top=1"]
    assert main(["predict", str(run), *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path}/fits.png: ")
    assert said.out.count("\n") == 1
    first, last = said.err.splitlines()
    assert first.startswith(
        f"skipped: {tmp_path}/large\\nname.png: images of 32x40 do not fit the model"
    )
    assert last == "1 of 2 images were skipped"


def test_mistakes(run, named_run, files, load_config, tmp_path, capsys):
    paths, bare, empty = files[0], tmp_path / "bare.safetensors", tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.json", "run.json"):
        shutil.copy(run / name, begun)
    (tmp_path / "dangling.png").symlink_to("nowhere")
    disk.write_safetensors(bare, {"x": np.zeros(1)}, {})
    short = {"total_steps": 1, "batch_size": 8, "schedule.warmup_epochs": 0}
    short |= {"model.width": 12, "model.depth": 1, "model.decoder_depth": 1}
    mae = trained(load_config, tmp_path / "mae", "mae", short)
    backbone = tmp_path / "backbone.safetensors"
    assert main(["convert", str(named_run[0]), str(backbone), "--num-classes=0"]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([run, "nowhere.png"], "nowhere.png: no such file or folder"),
        ([run, ""], "'': no such file or folder"),
        ([begun, paths[0]], f"{begun}: there is no checkpoint yet"),
        ([run, "nowhere/*.png"], "nowhere/*.png: no such file or folder has this pattern"),
        ([run, "/dev/null"], "/dev/null is a device; give files and folders"),
        ([run, tmp_path / "dangling.png"], "dangling.png is a link to a missing file"),
        ([run, empty], f"{empty} contains no images (.jpg, "),
        ([run, paths[0], "--top=0"], "--top=0 must be at least 1"),
        ([run, paths[0], "--max-pixels=0"], "--max-pixels=0 must be at least 1"),
        ([run, paths[0], "--mean=0.5,0.5"], "--mean has 2 values; images of"),
        ([run, paths[0], "--std=0"], "--std=(0.0,) must be more than 0"),
        ([run, paths[0], "--std=a"], "--std: 'a' is not a comma-separated list"),
        ([run, paths[0], "--preprocess=mixup"], f"preprocessing of {run}"),
        ([tmp_path / "nowhere", paths[0]], "nowhere does not exist"),
        ([empty, paths[0]], f"{empty} holds neither model.safetensors nor pytorch_model.bin, nor "),
        ([bare, paths[0]], f"{bare} was not written by cv_jax and does not name its model"),
        ([mae, paths[0]], "holds mae_vit_b16, which is not a classifier"),
        ([backbone, paths[0]], "holds resnet8_cifar, which is not a classifier"),
    ):
        assert main(["predict", *map(str, arguments)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
