"""Devices and processes of a run.

- `start.py` imports JAX and reports what it refuses; `jax_settings.py` fixes and lists its
  settings; `processor.py` describes the processor; `fused_reductions.py` guards against faults of
  jaxlib.
- `mesh.py` builds the device mesh and global arrays; `partition.py` shards the train state.
- `clusters.py` finds the processes of a run; `processes.py` connects them and ends them.
- `prefetch.py` transfers batches ahead of the step; `memory.py` checks sizes before the first step.
- `compile_options.py` chooses options of the compiler; `compile_cache.py` stores compiled programs;
  `collectives.py` counts their communication.
"""
