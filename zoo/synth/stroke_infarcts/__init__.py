"""Real infarcts as the final lesions of simulated strokes."""
