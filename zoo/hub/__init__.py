"""A trained model as a folder: card, weights, golden output."""
