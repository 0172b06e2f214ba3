"""Models and weights of other stacks."""
