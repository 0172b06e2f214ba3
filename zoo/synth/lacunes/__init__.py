"""Simulates scans with lacunes and their mimics."""
