"""Prediction: windows, whole images, cohorts."""
