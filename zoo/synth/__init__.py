"""Synthesis: anatomies, geometry, contrast, acquisition and lesions, drawn first and applied second."""
