"""Sweeps: many runs of one config file, each a plain command with its own values.

    SWEEP_DIR/sweep.json     the config, the overrides and the points; see `folder`
    SWEEP_DIR/<trial>/       the run directory of a trial, like any other
    SWEEP_DIR/<trial>.log    the command and the output of each start of the trial
    SWEEP_DIR/trials.jsonl   one line for each process that ended; see `local`
    SWEEP_DIR/slurm/         records of Slurm jobs; see `slurm`
    SWEEP_DIR/lock           held by the process that runs the sweep

The name of a trial consists of the values of its point: `model=plain20_cifar,seed=0`. Its state is
read from its run directory only, so a trial may also be run by its plain command.

- `points.py` reads the points of a sweep; `ranges.py` and `search.py` draw the points of a search.
- `folder.py` reads and locks the sweep directory; `trials.py` validates points and makes trials.
- `main.py` is `--sweep` and `--search`. Executors: `local.py` runs trials on `slots.py`, with
  `process_entry.py` and `display.py`; `slurm.py` submits jobs, which run `slurm_task.py`;
  `vmapped.py` trains trials in one program, with `merge_programs.py` and `stacked.py`.
"""
