"""Training: the compiled step, the run folder, cross-validation, search and clusters."""
