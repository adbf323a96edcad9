"""Bytes -> decode -> view -> batch."""
