"""What a check of `openmae doctor` says."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Diagnosis:
    """A line of the report.

    name: what was looked at. verdict: bad where training cannot start, or not on what the machine has. said: one
    sentence with the figure that was measured. remedy: one sentence; None where there is nothing to do.
    """

    name: str
    verdict: Verdict
    said: str
    remedy: str | None = None
