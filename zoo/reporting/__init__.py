"""Pictures and HTML reports."""
