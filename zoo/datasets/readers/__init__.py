"""One data set layout a file: `fits(root) -> bool` and `read(root, *, channels, labels) -> list[Case]`."""
