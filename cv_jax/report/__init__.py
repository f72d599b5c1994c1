"""Sweep reports: tables, figures and comparisons from the files of the trials."""
