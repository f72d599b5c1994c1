"""Every chapter: its verdict in made-up worlds, its sweeps, and its words."""

from pathlib import Path

import made_up
import pytest

from cv_jax import config as configs
from cv_jax.course import run
from cv_jax.course.chapter import Trial, by_seed
from cv_jax.course.chapters import CHAPTERS, DATASETS
from cv_jax.course.verdict import (
    CONTRADICTED,
    HELD,
    HOLDS,
    NO_INTERVAL,
    NOT_HELD,
    OPEN,
    UNDECIDED,
)
from cv_jax.sweep import points

NAMES = [chapter.name for chapter in CHAPTERS]


def named(name):
    return next(chapter for chapter in CHAPTERS if chapter.name == name)


def test_the_line_is_complete():
    assert len(CHAPTERS) == 12
    assert sorted(NAMES) == sorted(made_up.ROWS)
    studies = [study.name for chapter in CHAPTERS for study in chapter.studies]
    assert len(set(studies)) == len(studies)
    assert all(set(study.arguments) == set(DATASETS) for c in CHAPTERS for study in c.studies)


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_held_and_not_held(name):
    verdict = named(name).verdict
    for true, state in ((True, HELD), (False, NOT_HELD)):
        found = verdict(made_up.trials(name, true))
        results = {check.result for check in found.checks}
        assert results <= ({HOLDS} if true else {CONTRADICTED, UNDECIDED})
        assert found.state == state
        assert all(check.value in found.why for check in found.checks)


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_open_without_enough_trials(name):
    verdict = named(name).verdict
    assert verdict([]).state == OPEN
    assert verdict(made_up.trials(name, True, seeds=1)).state == OPEN
    some = made_up.trials(name, True)
    study = some[0].study, some[0].values
    rest = [trial for trial in some if (trial.study, trial.values) != study]
    assert {check.result for check in verdict(rest).checks} <= {HOLDS, NO_INTERVAL}


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_reads_what_its_sweeps_vary(name):
    """The made-up settings are those of the sweeps, so a verdict reads real trials as well.

    Trials have the values of the keys that differ between the points.
    """
    for study in named(name).studies:
        sweep = run.sweep_of(study, "digits", Path("out"), None)
        keys = points.distinct(sweep.points)
        every = [{**point.arguments, **point.overrides} for point in sweep.points]
        real = [{key: own.get(key) for key in keys} for own in every]
        for made, values, _ in made_up.ROWS[name]():
            if made == study.name:
                assert values in real


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_point_resolves(name, dataset):
    for study in named(name).studies:
        sweep = run.sweep_of(study, dataset, Path("out"), None)
        found = [configs.load(sweep.reference(p), sweep.texts(p)) for p in sweep.points]
        assert len({configs.digest(config) for config in found}) == len(found)
        sequences = study.name == "mask"
        assert all(sequences or config.data.name == dataset for config in found)


def test_settings_are_named_by_all_their_keys():
    trials = [Trial("a", {"net": net, "model.patch_size": 4}, 0, {"x": 1.0}) for net in "rs"]
    assert by_seed(trials, "x", "a", net="r", model__patch_size=4) == {0: 1.0}
    assert by_seed(trials, "x", "a", net="t") == {}
    with pytest.raises(ValueError, match="several settings"):
        by_seed(trials, "x", "a")
