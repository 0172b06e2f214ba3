"""Synthetic scans with lacunes and what looks like them."""
