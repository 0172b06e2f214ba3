"""Provides label maps of whole brains and heads."""
