"""Synthesises images: draws anatomies, geometry, contrast, acquisition and lesions, then applies them."""
