"""Normative models: codes of healthy brains, outlier detectors, lesion maps."""
