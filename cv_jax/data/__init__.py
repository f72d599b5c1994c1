"""Input: sources of single examples, and the batches of a run."""
