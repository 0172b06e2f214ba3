"""Formats a trained model can leave in, one per file."""
