"""Parsing of `config.eval.extra`; data, interval and options of each evaluation."""

import numpy as np
import pytest

from cv_jax.evaluation import plan


def test_the_string_is_parsed_as_literals():
    parsed = plan.parse("knn|knn(name='far', k=5, temperature=None) | classification(split='a|b')")
    assert [kind for kind, _ in parsed] == ["knn", "knn", "classification"]
    names = [options["name"] for _, options in parsed]
    assert names == ["knn", "far", "classification"]
    assert (parsed[0][1]["k"], parsed[1][1]["k"], parsed[1][1]["temperature"]) == (20, 5, None)
    assert parsed[2][1]["split"] == "a|b"
    assert plan.parse("") == plan.parse("  ") == []


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("kn(k=3)", "unknown kind 'kn'; did you mean knn?"),
        ("zzz", "unknown kind 'zzz'; allowed: classification, sequence, reconstruction, knn, lo"),
        ("knn(kk=3)", "knn has no option 'kk'; did you mean k?"),
        ("knn(qqqqqq=3)", "knn has no option 'qqqqqq'; allowed: name, dataset, split, preprocess"),
        ("knn(k='many')", "knn: k: 'many' is not an integer"),
        ("knn(3)", "knn(3): options are given by name, as in knn(name='a')"),
        ("knn(k=open('x'))", "is not of the form"),
        ("knn(**{'k': 3})", "is not of the form"),
        ("knn(k=3", "is not of the form"),
        ("knn + knn", "is not of the form"),
        ("|".join(f"knn(name='k{i}')" for i in range(101)), "101 terms; at most 100"),
        ("knn|knn", "the name 'knn' is taken"),
        ("knn(name='test')", "the name 'test' is taken"),
        ("knn(name='a/b')", "may contain letters, digits, - and _ only"),
        ("knn(every_steps=2, every_epochs=1)", "knn: set every_… in one unit only"),
        ("knn(every_steps=-2)", "knn: every_steps=-2 must be finite and at least 0"),
        ("knn(every_epochs=1e400)", "knn: every_epochs=inf must be finite and at least 0"),
        ("knn(every_steps=2.5)", "knn: every_steps: 2.5 is not an integer"),
        ("knn(split='tst')", "available splits: train, test"),
        ("knn(dataset='digit')", "unknown dataset 'digit'"),
        ("knn(preprocess='flip')", "knn: preprocess: only deterministic operations are allowed"),
        (
            "knn(preprocess='resize(20)')",
            "knn: preprocess makes images of 20x20, config.image_size is 32x32, and mlp accepts no",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(mistake_of, extra, message):
    assert message in mistake_of(extra)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mlp", {"eval.average": "votes"}, "config.eval.average: 'votes' is not one of"),
        ("mlp", {"eval_preprocess": "resize(9)"}, "config.eval_preprocess makes images of 9x9"),
        ("mlp", {"eval_preprocess": "repeat(2)"}, "config.eval_preprocess: only deterministic op"),
        ("mlp", {"augment": "ten_crop(32)"}, "config.augment: test-time views are for"),
        ("mae", {"eval_preprocess": "resize(9)"}, "config.eval_preprocess makes images of 9x9"),
        ("mae", {"eval_preprocess": "flips"}, "config.eval_preprocess: only classifiers average"),
        ("lenet5", {"eval_preprocess": "flips", "loss.name": "rbf"}, "config.eval.average: scores"),
    ],
)
def test_mistakes_in_the_own_evaluation_name_config_fields(mistake_of, name, overrides, message):
    assert message in mistake_of("", name, **overrides)


def test_defaults_are_taken_from_the_config(build):
    extra = (
        "classification(name='seen', split='train[:50]', every_steps=7)"
        "|classification(name='views', preprocess='resize(36)|ten_crop(32)', every_percent=50)"
        "|knn(train_examples=30)"
    )
    parts = build(extra, **{"eval.every_epochs": 2})
    test, seen, views, knn = parts.evaluations
    assert [e.name for e in parts.evaluations] == ["test", "seen", "views", "knn"]
    # 1438 examples in batches of 100: two epochs are 29 steps.
    assert [e.every for e in parts.evaluations] == [29, 7, 25, 29]
    assert (len(seen.images.source), len(test.images.source)) == (50, 359)
    assert views.images.cached[0].shape == (359, 36, 36, 1)
    assert knn.images is test.images  # read once
    assert len(knn.train_images.source) == 30
    assert knn.options["train_split"] == "train"
    again = build("knn(train_examples=30)")
    other = build("knn(train_examples=30)", seed=1)
    labels = [p.evaluations[-1].train_images.cached[1] for p in (parts, again, other)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()
