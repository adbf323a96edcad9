"""Whether this machine can train: one file a check."""
