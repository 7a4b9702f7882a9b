"""The training log, and HTML pages about evaluations and training crops."""
