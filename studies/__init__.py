"""Ablation studies: one file a task, run by `tools/study TASK`."""
