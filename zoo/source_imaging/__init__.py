"""EEG source imaging: from a recording to places in the brain."""
