"""Holds the parts that networks share: blocks, layers, sizes."""
