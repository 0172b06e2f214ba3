"""Images and what is done to their grids: reading, orientation, resampling, patches, components."""
