"""One run on disk: its folder, checkpoints, log and the card it ends in."""
