"""Analyses of models: receptive fields, and templates of linear classifiers."""
