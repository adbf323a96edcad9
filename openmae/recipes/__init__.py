"""A folder a job: settings (a frozen dataclass: the flags and their ranges), job (run), and what lies between them; the
trainings have choose (what was left open, and what follows) and build too. A small job is one file."""
