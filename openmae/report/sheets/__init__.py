"""Sheets of images."""
