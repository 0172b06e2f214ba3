"""Small real scans that ship with the package; NOTICE names their sources."""
