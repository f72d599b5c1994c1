"""`python -m cv_jax report` on sweeps of `sweeps.py` and on configs of real models."""

import csv
import fcntl
import json
import re

import numpy as np
import pytest
import sweeps
from PIL import Image

from cv_jax import config as configs
from cv_jax.__main__ import main
from cv_jax.report import figures, results, settings, tables

ACCURACIES = {("a", 0): 0.90, ("a", 1): 0.92, ("a", 2): 0.97, ("b", 0): 0.95, ("b", 1): 0.96}


@pytest.fixture
def folder(tmp_path):
    """Settings a and b at three seeds; (b, 2) and all of c failed in different ways."""
    folder = tmp_path / "sweep"
    values = [{"kind": kind, "seed": seed} for kind in "abc" for seed in range(3)]
    points = sweeps.write(folder, values)
    for point in points:
        key = point.arguments["kind"], point.overrides["seed"]
        if key in ACCURACIES:
            sweeps.finish(folder, point, ACCURACIES[key], adds=1000 if key[0] == "a" else 4000)
    sweeps.end(folder, points[5], 1, 7)
    sweeps.end(folder, points[6], -9, 5)
    sweeps.end(folder, points[7], 3, 4)
    return folder


def rows(text):
    """Return the cells of the first table of a report."""
    lines = [line for line in text.split("\n\n")[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table(folder, capsys):
    assert main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    head, _, a, b, c = rows(text)
    assert head[:6] == ["kind", "parameters", "mult-adds", "test", "train", "best"]
    deviation = np.std([90, 92, 97], ddof=1)
    assert a[:6] == [
        "a", "12.35 k", "1.000 k", f"93.00 ± {deviation:.2f} %", f"93.00 ± {deviation:.2f} %",
        "97.00 %",
    ]  # fmt: skip
    assert b[3] == f"95.50 ± {np.std([95, 96], ddof=1):.2f} %"
    assert [row[6] for row in (a, b, c)] == ["3/3", "2/3", "0/3"]
    assert [row[7] for row in (a, b, c)] == ["0:02", "0:02", ""]
    # Ten steps of ten images per second between two lines.
    assert a[8] == "100"
    assert c[3] == ""


def test_nothing_is_dropped(folder, capsys):
    """The report lists every unfinished trial with its state."""
    path = folder / "kind=c,seed=2"
    path.mkdir()
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        main(["report", str(folder)])
        text = capsys.readouterr().out
    assert "5 of 9 trials done" in text
    assert "kind=b,seed=2: failed with exit code 1 at step 7" in text
    assert "kind=c,seed=0: killed by signal 9 at step 5" in text
    assert "kind=c,seed=1: the loss became infinite or not a number, step 4" in text
    assert "kind=c,seed=2: running, step 0" in text
    (path / "lock").unlink()
    path.rmdir()
    main(["report", str(folder)])
    assert "kind=c,seed=2: not started" in capsys.readouterr().out


def test_common_flags_are_shown(folder, tmp_path, capsys):
    main(["report", str(folder)])
    assert "- config: `configs/mlp.py`\n" in capsys.readouterr().out
    alone = [{"kind": "a", "ema.decay": 0.5, "seed": seed} for seed in (0, 1)]
    sweeps.write(tmp_path / "one", alone)
    main(["report", str(tmp_path / "one")])
    said = capsys.readouterr().out
    assert "- config: `configs/mlp.py:kind=a`\n- common flags: `--config.ema.decay=0.5`\n" in said


def test_paired_comparison(folder, capsys):
    """b minus a at the common seeds 0 and 1: 5 and 4 percentage points."""
    main(["report", str(folder)])
    line = next(x for x in capsys.readouterr().out.splitlines() if "kind: b − a" in x)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:4] == ["2", "+4.50 ± 0.71 %"]
    # t at 1 degree of freedom is Cauchy: the 97.5 % quantile is tan(0.475 π) = 12.706.
    half = np.tan(0.475 * np.pi) * 0.5
    assert cells[4] == f"{4.5 - half:+.2f} … {4.5 + half:+.2f} %"
    assert float(cells[5]) == pytest.approx(2 * (0.5 - np.arctan(9) / np.pi), abs=5e-4)


def test_a_small_p_value_is_not_rounded_to_zero(tmp_path, capsys):
    """Differences of 0.5, 0.501 and 0.502 are 0.501 ± 0.001 / √3: t = 868 at 2 degrees."""
    points = [{"kind": kind, "seed": seed} for kind in "ab" for seed in range(3)]
    for point in sweeps.write(tmp_path, points):
        gain = 0.5 + point.overrides["seed"] / 1000 if point.arguments["kind"] == "b" else 0
        sweeps.finish(tmp_path, point, 0.2 + gain)
    main(["report", str(tmp_path)])
    line = next(x for x in capsys.readouterr().out.splitlines() if "kind: b − a" in x)
    assert line.strip("| ").endswith("| < 0.001")


def test_conditions_that_differ_between_trials_are_named(tmp_path, capsys):
    points = sweeps.write(tmp_path / "sweep", [{"seed": seed} for seed in range(3)])
    for point, version in zip(points, ("1", "1", "2"), strict=True):
        conditions = {"versions": {"jax": version}}
        sweeps.finish(tmp_path / "sweep", point, 0.9, conditions=conditions)
    assert main(["report", str(tmp_path / "sweep")]) == 0
    line = "- conditions that differ between trials and may change bits: jax: was '1', is now '2' "
    assert f"{line}(1 of 3 starts)" in capsys.readouterr().out


def test_files(folder, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith((out / "report.md").read_text()[:-1])
    trials = list(csv.DictReader((out / "trials.csv").open()))
    assert [(t["kind"], int(t["seed"])) for t in trials][:2] == [("a", 0), ("a", 1)]
    assert [t["state"] for t in trials].count("done") == 5
    assert float(trials[3]["test_accuracy"]) == 0.95
    assert trials[3]["commit"] == "abc"
    assert trials[3]["command"].startswith(
        "python launch.py --config configs/mlp.py:kind=b --config.seed=0 --workdir"
    )
    found = list(csv.DictReader((out / "settings.csv").open()))
    assert float(found[0]["test_accuracy_mean"]) == pytest.approx(0.93)
    assert float(found[0]["test_accuracy_deviation"]) == pytest.approx(0.036055512754639)
    assert (float(found[0]["test_accuracy_best"]), float(found[0]["test_loss_best"])) == (
        0.97,
        pytest.approx(0.03),
    )
    assert found[2]["test_accuracy_mean"] == ""
    with Image.open(out / "figure.png") as image:
        assert image.format == "PNG"


def test_time_of_a_killed_and_resumed_run(tmp_path):
    """Each process restarts the clock; speed uses lines of one process."""
    (point,) = sweeps.write(tmp_path, [{"seed": 0}])
    sweeps.finish(tmp_path, point, 0.5, seconds=(1.0, 2.0, 0.5, 4.5))
    _, (found,) = results.read(tmp_path)
    assert found.metrics["seconds"] == 6.5
    assert found.metrics["images_per_second"] == np.median([10 * 10 / 1.0, 10 * 10 / 4.0])


def drawn(tmp_path, points, accuracy=lambda point: 0.9, **more):
    """Return the figure of a sweep whose trials are all done."""
    for point in sweeps.write(tmp_path, points):
        sweeps.finish(tmp_path, point, accuracy(point), **more)
    _, found = results.read(tmp_path)
    return figures.figure(settings.group(found))


def test_a_number_makes_curves(tmp_path):
    points = [
        {"net": net, "depth": depth, "seed": seed}
        for net in ("plain", "residual")
        for depth in (56, 20)
        for seed in (0, 1)
    ]
    # Errors: depth/10 % at seed 0, two percentage points more at seed 1.
    figure = drawn(
        tmp_path,
        points,
        lambda p: 1 - p.arguments["depth"] / 1000 - 0.02 * p.overrides["seed"],
    )
    test, train_panel = (axis for axis in figure.axes if axis.get_visible())
    assert test.get_title() == "test error, %"
    assert test.get_xlabel() == "depth"
    curves = {c.get_label(): c.lines[0] for c in test.containers}
    assert list(curves) == ["net=plain", "net=residual"]
    np.testing.assert_allclose(curves["net=plain"].get_xydata(), [[20, 3.0], [56, 6.6]])
    whiskers = test.containers[0].lines[2][0].get_segments()
    half = np.std([2, 4], ddof=1)
    np.testing.assert_allclose(whiskers[0], [[20, 3 - half], [20, 3 + half]])


def test_patch_sizes_have_a_logarithmic_axis_and_their_cost(tmp_path):
    points = sweeps.write(tmp_path, [{"model.patch_size": p} for p in (2, 4, 8)])
    for point in points:
        adds = 10**6 // point.overrides["model.patch_size"]
        sweeps.finish(tmp_path, point, 0.9, adds=adds)
    _, found = results.read(tmp_path)
    figure = figures.figure(settings.group(found))
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles[-2:] == ["multiply-adds per image", "images per second, training"]
    costs = figure.axes[len(titles) - 2]
    np.testing.assert_array_equal(
        costs.containers[0].lines[0].get_ydata(), [500000, 250000, 125000]
    )
    assert costs.get_xscale() == "log"
    assert costs.get_yscale() == "log"


def test_names_make_bars(tmp_path):
    points = [
        {"policy": p, "net": n} for n in ("resnet", "vit") for p in ("none", "flip", "colour")
    ]
    figure = drawn(tmp_path, points)
    bars = figure.axes[0].containers
    heights = [
        [bar.get_height() for bar in c] for c in bars if len(c) == 3 and hasattr(c, "patches")
    ]
    np.testing.assert_allclose(heights, np.full((2, 3), 10.0))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["none", "flip", "colour"]


def test_one_setting_has_no_figure(tmp_path):
    assert drawn(tmp_path, [{"seed": 0}, {"seed": 1}]) is None


def test_many_numbers_have_few_ticks_and_many_curves_are_dots(tmp_path):
    rates = [{"optim.learning_rate": i / 1000, "seed": seed} for i in range(40) for seed in (0, 1)]
    axis = drawn(tmp_path / "rates", rates).axes[0]
    assert len(axis.containers[0].lines[0].get_xdata()) == 40
    assert len(axis.get_xticks()) <= figures.MOST_TICKS
    many = [{"depth": i + 1, "width": i} for i in range(figures.MOST_CURVES + 1)]
    figure = drawn(tmp_path / "grid", many, lambda p: 0.9 - p.arguments["width"] / 100)
    (dots,) = figure.axes[0].lines
    places, errors = dots.get_data()
    np.testing.assert_allclose(np.diff(errors), np.diff(places))
    assert len(places) == len(many)
    assert not figure.legends


def test_more_names_than_bars_have_no_figure(tmp_path):
    names = [{"policy": f"p{i}"} for i in range(figures.MOST_BARS + 1)]
    assert drawn(tmp_path / "all", names) is None
    assert drawn(tmp_path / "most", names[1:]) is not None


def test_models_make_the_historical_table(load_config, tmp_path, capsys):
    """Sorted by year, with the receptive field of the trained config."""
    chosen = {"lenet5": ("lenet5", {}), "linear": ("linear", {}), "vit_s16": ("vit_s16", {})}
    points = sweeps.write(tmp_path, [{"model": name} for name in chosen])
    for point in points:
        config, overrides = chosen[point.arguments["model"]]
        values = configs.flatten(load_config(config, {"image_size": 24, **overrides}))
        sweeps.finish(tmp_path, point, 0.9, config=json.loads(json.dumps(values)))
    assert main(["report", str(tmp_path)]) == 0
    head, _, *models = rows(capsys.readouterr().out)
    assert head[:4] == ["model", "year", "receptive field", "parameters"]
    # LeNet-5's second pooling covers 16 pixels at any image size; a ViT covers the image.
    assert [row[:3] for row in models] == [
        ["linear", "1958", "image"],
        ["lenet5", "1998", "16"],
        ["vit_s16", "2020", "image"],
    ]


def test_every_evaluation_is_shown(tmp_path):
    """Test split first; training images as evaluated, not as augmented."""
    (point,) = sweeps.write(tmp_path, [{"kind": "a"}])
    sweeps.finish(tmp_path, point, 0.9, more=[("train_eval", 1.0), ("shifted", 0.5)])
    _, found = results.read(tmp_path)
    names = ["test_accuracy", "train_eval_accuracy", "shifted_accuracy"]
    assert settings.metrics_of(settings.group(found), "_accuracy") == names


def test_beam_search_is_shown_beside_greedy_search(tmp_path):
    (point,) = sweeps.write(tmp_path, [{"kind": "a"}])
    sweeps.finish(tmp_path, point, 0.9, train=0.8)
    file = tmp_path / point.name / "metrics.jsonl"
    greedy, both = '"accuracy": 0.9,', '"accuracy": 0.9, "beam_accuracy": 0.95,'
    file.write_text(file.read_text().replace(greedy, both))
    _, found = results.read(tmp_path)
    names = ["test_accuracy", "test_beam_accuracy", "train_accuracy"]
    assert settings.metrics_of(settings.group(found), "_accuracy") == names
    assert found[0].metrics["test_beam_accuracy"] == 0.95


def test_mistakes(folder, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no sweep and no run" in capsys.readouterr().err
    assert main(["report", str(folder), "--metric", "top5"]) == 2
    assert "--metric=top5 was not measured; allowed: " in capsys.readouterr().err


def test_comparison_by_another_metric(folder, capsys):
    assert main(["report", str(folder), "--metric", "test_loss"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "kind: b − a" in x)
    assert "-0.0450 ± 0.0071" in line


def test_a_sweep_that_has_not_begun(tmp_path, capsys):
    sweeps.write(tmp_path, [{"kind": "a"}, {"kind": "b"}])
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "0 of 2 trials done" in text
    assert "kind=a: not started" in text


def test_a_bar_or_an_empty_value_keeps_the_columns():
    rows = [[settings.show(value)] for value in ("pad_crop(4)|flip", "", 0.5, None)]
    lines = tables.aligned(["augment"], rows).splitlines()
    # Markdown splits at bars without a backslash.
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [len(found) for found in cells] == [1] * 6
    assert [found[0].strip() for found in cells[2:]] == [
        r"pad_crop(4)\|flip",
        '""',
        "0.5",
        "default",
    ]
