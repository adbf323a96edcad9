"""One training loop for every job, its optimizer, checkpoints and run folder."""
