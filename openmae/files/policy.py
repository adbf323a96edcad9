"""What a page that is one file lets a browser do: run the scripts that are its own, and fetch nothing from anywhere."""

import base64
import hashlib
from collections.abc import Sequence


def policy(style: str, scripts: Sequence[str], also: str = "") -> str:
    """The page's Content-Security-Policy, for its style and scripts as they stand in it. also: what else scripts may,
    such as 'wasm-unsafe-eval'."""
    may = [*map(_hash, scripts), also] if also else map(_hash, scripts)
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(style)}",
            f"script-src {' '.join(may)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    """What a browser knows a script or a style by that a page allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
