"""Label maps of whole brains and heads."""
