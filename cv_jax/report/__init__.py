"""Reports of runs and sweeps: pages, tables and figures from the files of the run directories."""
