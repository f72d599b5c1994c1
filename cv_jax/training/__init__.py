"""Training and evaluation of one run.

- `experiment.py` builds the parts of a run from a config; `shape_checks.py` checks their shapes.
- `step.py` has the train state and one update, `objective.py` the loss, `gradient.py` its gradient,
  `teacher.py` the teacher model of knowledge distillation.
- `programs.py` has the jitted programs of the training, with one update or several.
- `loop.py` trains a run; `evaluate.py` is `--evaluate`; `dry_run.py` is `--dry_run`.
- `profiling.py` measures compile times and utilisation, and writes profiler traces.
"""
