"""One file per job: a frozen dataclass of its settings, and run()."""
