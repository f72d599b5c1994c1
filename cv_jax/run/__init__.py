"""The run directory of one run.

- `record.py` writes the run directory; `workdir.py` checks and repairs it; `lock.py` locks it.
- `starts.py` reads the config and the starts; `identity.py` compares a start with earlier ones;
  `owner.py` tells whose a checkpoint is; `provenance.py` records code, versions, devices, settings.
- `checkpoint.py` saves and restores the train state; `checkpoint_files.py` and
  `checkpoint_folder.py` read, check and move its files.
- `json_files.py` writes JSON files and lines; `writers.py` copies metric lines to TensorBoard and
  Weights & Biases.
"""
