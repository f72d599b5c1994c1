"""What a config asks to be evaluated: read strictly, each with data and interval of its own."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from cv_jax.errors import InputError
from cv_jax.evaluation import plan
from cv_jax.evaluation.run import make_evaluator
from cv_jax.training import experiment

NET = {"model.widths": "16,12", "mesh.devices": 1, "batch_size": 100, "total_steps": 50}


def build(load_config, extra, name="mlp", **overrides):
    net = {} if name != "mlp" else NET
    return experiment.build(load_config(name, {**net, "eval.extra": extra, **overrides}))


def test_the_string_is_read_as_literals():
    asked = plan.parse("knn|knn(name='far', k=5, temperature=None) | classification(split='a|b')")
    assert [kind for kind, _ in asked] == ["knn", "knn", "classification"]
    names = [options["name"] for _, options in asked]
    assert names == ["knn", "far", "classification"]
    assert (asked[0][1]["k"], asked[1][1]["k"], asked[1][1]["temperature"]) == (20, 5, None)
    assert asked[2][1]["split"] == "a|b"
    assert plan.parse("") == plan.parse("  ") == []


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("kn(k=3)", "unknown kind 'kn'; did you mean knn?"),
        ("knn(kk=3)", "knn has no option 'kk'; did you mean k?"),
        ("knn(k='many')", "knn: k: 'many' is not an integer"),
        ("knn(3)", "is not of the form"),
        ("knn(k=open('x'))", "is not of the form"),
        ("knn(**{'k': 3})", "is not of the form"),
        ("knn(k=3", "is not of the form"),
        ("knn + knn", "is not of the form"),
        ("knn|knn", "the name 'knn' is taken"),
        ("knn(name='test')", "the name 'test' is taken"),
        ("knn(name='a/b')", "may hold letters, digits, - and _ only"),
        ("knn(every_steps=2, every_epochs=1)", "knn: give every_… in one unit"),
        ("knn(every_steps=-2)", "knn: every_… is negative"),
        ("knn(k=0)", "knn: k: 0 is not in 1…1438"),
        ("knn(k=11, train_examples=10)", "knn: k: 11 is not in 1…10"),
        ("knn(train_examples=2000)", "knn: train_examples: 2000 is not in 1…1438"),
        ("knn(temperature=0)", "knn: temperature: 0.0 is not positive"),
        ("logistic_regression(C=-1)", "logistic_regression: C: -1.0 is not positive"),
        ("knn(feature='fc9')", "feature: 'fc9' is not one of fc1, fc2, pre_logits"),
        ("knn(train_split='test')", "train_split: it would learn from what it is scored on"),
        ("knn(split='tst')", "available splits: train, test"),
        ("knn(dataset='digit')", "unknown dataset 'digit'"),
        (
            "knn(preprocess='flip')",
            "knn: preprocess: only operations that draw nothing are allowed",
        ),
        ("knn(preprocess='flips')", "knn: preprocess: only classifiers average views"),
        (
            "knn(preprocess='resize(20)')",
            "makes images of 20x20, config.image_size is 32x32, and mlp",
        ),
        ("classification(average='votes')", "average: 'votes' is not one of probabilities, logits"),
        ("classification(preprocess='multi_scale((32, 36))')", "makes images of 32x32 and 36x36"),
        ("reconstruction", "mlp does classification, not reconstruction"),
    ],
)
def test_a_mistake_gives_one_line(load_config, extra, said):
    with pytest.raises(InputError) as caught:
        build(load_config, extra)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("mlp", {"eval.average": "votes"}, "config.eval.average: 'votes' is not one of"),
        ("mlp", {"eval_preprocess": "resize(9)"}, "config.eval_preprocess makes images of 9x9"),
        ("mlp", {"eval_preprocess": "repeat(2)"}, "config.eval_preprocess: only operations that"),
        ("mlp", {"augment": "ten_crop(32)"}, "config.augment: test-time views are for"),
        ("mae", {"eval_preprocess": "flips"}, "config.eval_preprocess: only classifiers average"),
        ("lenet5", {"eval_preprocess": "flips", "loss.name": "rbf"}, "config.eval.average: the sc"),
    ],
)
def test_mistakes_about_the_own_evaluation_name_its_fields(load_config, name, overrides, said):
    with pytest.raises(InputError) as caught:
        build(load_config, "", name, **overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_said_is_taken_from_the_config(load_config):
    extra = (
        "classification(name='seen', split='train[:50]', every_steps=7)"
        "|classification(name='views', preprocess='resize(36)|ten_crop(32)', every_percent=50)"
        "|knn(train_examples=30)"
    )
    parts = build(load_config, extra, **{"eval.every_epochs": 2})
    test, seen, views, knn = parts.evaluations
    assert [e.name for e in parts.evaluations] == ["test", "seen", "views", "knn"]
    # 1438 examples in batches of 100: two epochs are 29 steps.
    assert [e.every for e in parts.evaluations] == [29, 7, 25, 29]
    assert (len(seen.images.source), len(test.images.source)) == (50, 359)
    assert views.images.cached[0].shape == (359, 36, 36, 1)
    assert knn.images is test.images  # read once
    assert len(knn.train_images.source) == 30
    assert knn.options["train_split"] == "train"
    again = build(load_config, "knn(train_examples=30)")
    other = build(load_config, "knn(train_examples=30)", seed=1)
    labels = [p.evaluations[-1].train_images.cached[1] for p in (parts, again, other)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()


def test_probes_score_the_features_of_the_net(load_config):
    extra = "knn(k=5, feature='fc1')|logistic_regression(C=1.0, train_examples=300)"
    parts = build(load_config, extra, **{"mesh.devices": 4, "eval.batch_size": 100})
    variables = jax.device_get(parts.init()().eval_variables)
    _, knn, regression = parts.evaluations

    def features(images, name):
        pixels = (images.cached[0].astype(np.float32) / 255 - 0.305) / 0.376
        return np.asarray(parts.model.apply(variables, pixels)[1][name])

    for evaluation, name in ((knn, "fc1"), (regression, "pre_logits")):
        learnt, scored = evaluation.train_images, evaluation.images
        x, y = features(learnt, name), features(scored, name)
        if evaluation is knn:
            votes = lambda d: np.exp(-d / 0.07)  # noqa: E731
            reference = KNeighborsClassifier(5, metric="cosine", weights=votes)
        else:
            mean, deviation = x.mean(axis=0), x.std(axis=0)
            deviation[deviation == 0] = 1
            x, y = (x - mean) / deviation, (y - mean) / deviation
            reference = LogisticRegression(C=1.0, max_iter=5000)
        answers = reference.fit(x, learnt.cached[1]).predict(y)
        found = make_evaluator(parts, evaluation)(variables).metrics
        assert found["count"] == 359
        # Features are float32: one example may stand between two answers.
        assert abs(found["correct"] - (answers == scored.cached[1]).sum()) <= 1


def test_a_masked_autoencoder_is_probed_on_all_patches(load_config):
    net = {
        "model.patch_size": 8,
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.decoder_width": 8,
        "model.decoder_depth": 1,
        "model.decoder_num_heads": 1,
        "image_size": 16,
        "mesh.devices": 1,
        "batch_size": 100,
        "total_steps": 2,
        "schedule.warmup_epochs": "none",
    }
    parts = build(
        load_config,
        "knn(k=1, train_examples=50)|reconstruction(split='train[:9]', name='seen')",
        "mae",
        **net,
    )
    own, knn, seen = parts.evaluations
    assert [e.kind for e in parts.evaluations] == ["reconstruction", "knn", "reconstruction"]
    variables = parts.init()().eval_variables
    found = make_evaluator(parts, seen)(variables)
    assert set(found.metrics) == {"loss", "count"}
    assert found.metrics["count"] == 9
    assert found.details == {}
    assert make_evaluator(parts, knn)(variables).metrics["count"] == 359
    with pytest.raises(
        InputError, match="feature: 'mask' is not one of embed, blocks_0, norm, pre"
    ):
        build(load_config, "knn(feature='mask')", "mae", **net)
