"""A folder a job: settings (a frozen dataclass), choose (what was left open), build, job (run). Files of one job are
named alike in all of them."""
