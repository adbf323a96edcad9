"""Words of settings, apart from what is built of them, so that help does not need torch."""

from typing import Literal

SegmentHead = Literal["linear", "upernet"]
