"""Trained models, one folder each. A package only so that the wheel carries it."""
