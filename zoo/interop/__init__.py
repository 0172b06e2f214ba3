"""Loads models and weights of other stacks."""
