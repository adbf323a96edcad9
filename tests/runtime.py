"""onnxruntime-web for the tests of pages that are files: they take it from where openmae keeps it, and never from a
network. `python -m tests.runtime` puts it there, as `.ci/run` does; where it is not, those tests are skipped."""

import pytest
from rich.console import Console

from openmae.recipes.demo.runtime import kept, runtime

RUNTIME = kept()  # of the user's cache: while tests run, openmae's is another
needs_runtime = pytest.mark.skipif(
    not RUNTIME.exists(), reason="onnxruntime-web is not kept on this machine: python -m tests.runtime takes it"
)

if __name__ == "__main__":
    runtime(None, Console())
