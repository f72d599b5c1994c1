"""Input: sources of single examples, and the batches that a run makes of them."""
