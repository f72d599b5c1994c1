"""`--evaluate`: all evaluations of the newest checkpoint of a run."""

import sys
from pathlib import Path

from cv_jax.devices import processes
from cv_jax.errors import ExitCode, InputError, RunError, printable
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.evaluation.run import record, table
from cv_jax.run import checkpoint_files, json_files, owner, provenance
from cv_jax.run import workdir as records
from cv_jax.run.checkpoint import Checkpoints
from cv_jax.run.record import about
from cv_jax.training.experiment import Experiment


def evaluate(experiment: Experiment, workdir: Path) -> int:
    """Evaluate the newest sound checkpoint; write and print the metrics.

    The file is `evaluation.json`. If evaluation fields or `eval.extra` differ from those of the
    training, the file is `evaluation-<digest of these fields>.json`. If the directory cannot be
    written, the metrics are only printed.

    Returns:
      The `ExitCode`.

    Raises:
      InputError: there is no checkpoint, or `workdir` belongs to another run.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")

    def check():
        if not checkpoints.steps():
            raise InputError(f"--evaluate: there is no checkpoint in {workdir}; train first")
        parts = experiment.config, experiment.fingerprint
        records.check(workdir, *parts, evaluating=True, classes=experiment.classes)

        return owner.of(workdir).name

    place, run = checkpoint_files.inode(workdir), processes.decided(check)
    experiment = experiment.as_begun(workdir)
    restored = checkpoints.restore(experiment.abstract_state, repair=False)
    if restored is None:
        raise InputError(f"--evaluate: the checkpoints in {workdir} were removed meanwhile")
    state, step = restored
    found = {
        evaluation.name: make_evaluator(experiment, evaluation)(state.eval_variables)
        for evaluation in experiment.evaluations
    }
    if not processes.is_main():
        return ExitCode.DONE
    # The run is not locked, so that it can train meanwhile.
    if checkpoint_files.inode(workdir) != place or run not in (None, *owner.of(workdir).names):
        raise RunError(
            f"{workdir} was moved or replaced while it was evaluated; nothing is written"
        )
    options = experiment.compiler_options
    changed = records.other_conditions(workdir, experiment.config, step, options)
    if changed:
        print(printable(f"WARNING: {workdir} {changed}"), file=sys.stderr)
    file = records.evaluation_file(workdir, experiment.config)
    made = {e.name: record(e, found[e.name]) for e in experiment.evaluations}
    conditions = {**provenance.environment(), "compiler_options": options}
    said = {**about(experiment.config, step), **({} if run is None else {"run": run})}
    note = str(file)
    try:
        records.check_writable(workdir)
    except InputError as error:
        note = f"only printed: {error}"
    else:
        json_files.write_record(file, {**said, **conditions, "evaluations": made})

    print(table(found, experiment.evaluations[0].classes))
    scores, accuracy = found["test"].metrics, ""
    if "accuracy" in scores:
        accuracy = f"accuracy {scores['accuracy']:.2%} ({scores['correct']} of {scores['count']}), "
    print(printable(f"step {step}: test {accuracy}loss {scores['loss']:.6f}, {note}"))
    return ExitCode.DONE
