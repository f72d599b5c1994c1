"""Sweeps: many runs of one config file, each the plain command with values of its own.

    SWEEP_DIR/sweep.json     the config, the overrides and the points; see `folder`
    SWEEP_DIR/<trial>/       the run directory of a point, like any other
    SWEEP_DIR/<trial>.log    each start of it: the command, and what it printed
    SWEEP_DIR/trials.jsonl   one line for each process that ended; see `local`
    SWEEP_DIR/slurm/         what became of jobs, if there were any; see `slurm`
    SWEEP_DIR/lock           held by the process that runs the sweep

A trial is named by its point's values: `model=plain20_cifar,seed=0`. What is finished is read from
its run directory and from nothing else, so any other way to run the same commands will do as well.
"""
