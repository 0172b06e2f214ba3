"""Metrics in mm on NumPy arrays, and the report made of them."""
