"""Computes EEG physics in mm on NumPy: head models, lead fields, linear inverse maps and the classical methods."""
