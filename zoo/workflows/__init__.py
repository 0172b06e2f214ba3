"""What people run over many cases."""
