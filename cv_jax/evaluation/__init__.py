"""Evaluation: the metrics of a model on splits of datasets.

- `plan.py` parses `config.eval.extra`, checks it and opens the data.
- `kinds.py` lists the kinds of evaluation; each kind is one file: `classification.py`,
  `sequence.py`, `reconstruction.py`, `knn.py`, `logistic_regression.py`. `kind.py` defines their
  interface.
- `step.py` has the functions that run on devices; `run.py` gathers their predictions over the
  batches; `metrics.py` and `sequence_metrics.py` compute metrics in NumPy.
"""
