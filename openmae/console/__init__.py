"""The terminal, progress, and words: 1,234 images, 3 min, 1.2 GB; what is safe to print."""
