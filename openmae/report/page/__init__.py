"""HTML pages, each one file."""
