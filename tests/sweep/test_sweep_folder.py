"""The sweep directory: its sweep, its lock, and the state of its trials."""

import json

import pytest

from cv_jax.errors import InputError
from cv_jax.run import json_files
from cv_jax.sweep import folder as folders
from cv_jax.sweep.points import Sweep, make_point


def sweep_of(*values, overrides=None, argument="digits", config="configs/mlp.py"):
    return Sweep(config, argument, overrides or {}, tuple(make_point(v) for v in values))


TWO = ({"seed": 0, "model.widths": (8, 8)}, {"seed": 1, "model.widths": (8, 8)})


def test_a_sweep_survives_a_round_trip(tmp_path):
    sweep = sweep_of(*TWO, overrides={"batch_size": "32"})
    with folders.claimed(tmp_path / "s", sweep):
        assert folders.read(tmp_path / "s") == sweep
    stored = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert stored["points"][0]["overrides"] == {"seed": 0, "model.widths": [8, 8]}


def test_one_process_at_a_time(tmp_path):
    sweep = sweep_of(*TWO)
    with (
        folders.claimed(tmp_path / "s", sweep),
        pytest.raises(InputError, match="--sweep_dir=.* is in use by process"),
        folders.claimed(tmp_path / "s", sweep),
    ):
        pass


def test_more_points_and_other_run_fields_are_the_same_sweep(tmp_path):
    folder = tmp_path / "s"
    with folders.claimed(folder, sweep_of(*TWO)):
        pass
    more = sweep_of(*TWO, {"seed": 2}, overrides={"log.every_steps": "5"})
    with folders.claimed(folder, more):
        pass
    assert folders.read(folder) == more


@pytest.mark.parametrize("argument", ["folder:{}", "records:{},model=mlp"])
def test_places_may_move(tmp_path, argument):
    def moved(place, **overrides):
        overrides = {"init_from": place, "distill.teacher": f"{place}/t", **overrides}
        return sweep_of(*TWO, argument=argument.format(place), overrides=overrides)

    with folders.claimed(tmp_path / "s", moved("old")):
        pass
    folders.check(tmp_path / "s", moved("/new"))
    for other in (
        moved("old", init_from="none"),
        moved("old", **{"distill.kind": "hard"}),
        sweep_of(*TWO, argument="digits", overrides=moved("old").overrides),
    ):
        with pytest.raises(InputError, match="holds another sweep"):
            folders.check(tmp_path / "s", other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            sweep_of(*TWO, overrides={"batch_size": "8"}),
            "overrides: was {}, is now {'batch_size': '8'}",
        ),
        (sweep_of(*TWO, argument="cifar10"), "argument: was 'digits', is now 'cifar10'"),
        (sweep_of(*TWO, config="configs/linear.py"), "config: was 'mlp.py', is now 'linear.py'"),
        (sweep_of(TWO[0]), "point seed=1,model.widths=8x8 is missing"),
    ],
)
def test_another_sweep_is_refused_with_the_difference(tmp_path, other, message):
    folder = tmp_path / "s"
    with folders.claimed(folder, sweep_of(*TWO)):
        pass
    before = (folder / "sweep.json").read_bytes()
    with pytest.raises(InputError, match="holds another sweep") as caught:
        folders.check(folder, other)
    assert message in str(caught.value)
    assert (folder / "sweep.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no sweep"):
        folders.check(tmp_path, sweep_of(*TWO))
    with pytest.raises(InputError, match="is a file"):
        folders.check(tmp_path / "thesis.txt", sweep_of(*TWO))
    with pytest.raises(InputError, match="holds no sweep"):
        folders.read(tmp_path)


def test_the_newest_line_is_complete_and_of_the_split(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert folders.newest(file) is None
    lines = [{"step": i, "split": "test" if i == 3 else "train"} for i in range(20000)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')
    assert folders.newest(file) == lines[-1]
    assert folders.newest(file, "knn") is None
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:9]))
    assert folders.newest(file, "test") == lines[3]


def test_a_trial_with_a_summary_of_its_last_step_has_finished(tmp_path):
    trial = folders.Trial("one", [], tmp_path, tmp_path / "log", total_steps=5, batch_size=1)
    assert not trial.finished()
    json_files.write_record(tmp_path / "summary.json", {"step": 5})
    assert trial.finished()
    assert not trial._replace(total_steps=6).finished()
    for damaged in ('{"step": 5}', '{"st'):
        (tmp_path / "summary.json").write_text(damaged)
        assert not trial.finished()


def test_the_default_folder_depends_on_the_common_values_only(tmp_path):
    one = folders.default_folder(sweep_of(*TWO), "depth,rate")
    assert one.parent.name == "runs"
    assert one.name.startswith("mlp-sweep-depth-rate-")
    assert one == folders.default_folder(sweep_of(TWO[0]), "depth,rate")
    run_field = sweep_of(*TWO, overrides={"log.every_steps": "1"})
    assert one == folders.default_folder(run_field, "depth,rate")
    assert one != folders.default_folder(sweep_of(*TWO, overrides={"seed": "3"}), "depth,rate")
    search = sweep_of(*TWO)._replace(search={"method": "random"})
    assert folders.default_folder(search, "").name.startswith("mlp-search-random-")


def test_a_trial_is_pruned_by_its_own_file_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    folders.prune(tmp_path / "a", {"step": 3})
    assert folders.was_pruned(tmp_path / "a")
    assert not folders.was_pruned(tmp_path / "b")
    (tmp_path / "a/pruned.json").rename(tmp_path / "b/pruned.json")
    assert not folders.was_pruned(tmp_path / "b")
    (tmp_path / "b/pruned.json").write_text('{"step": 3}')  # of an older version
    assert folders.was_pruned(tmp_path / "b")
