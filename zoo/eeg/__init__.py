"""EEG source imaging: head models, lead fields, linear inverse maps and the classical methods, in mm on NumPy."""
