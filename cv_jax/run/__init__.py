"""The run directory of one run.

- `record.py` writes the run directory; `workdir.py` checks, locks and repairs it.
- `checkpoint.py` saves and restores the train state; `json_files.py` writes JSON files and lines.
- `writers.py` copies metric lines to TensorBoard and Weights & Biases.
- `provenance.py` records code, versions, devices and settings; `identity.py` compares a start with
  earlier ones.
"""
