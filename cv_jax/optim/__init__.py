"""Optimisers, learning-rate schedules and rules for single parameters.

- `optimisers.py` builds the chain of `config.optim`; `muon.py` is one of its update directions.
- `parameter_rules.py` sets learning rate, weight decay and freezing by parameter name.
- `schedules.py` computes the learning rate of a step.
"""
