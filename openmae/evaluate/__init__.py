"""Frozen model in, numbers out."""
