"""What several networks share: blocks, layers, sizes."""
