"""The tests. This is imported before all else of them, and so before torch is, which reads it when it is imported."""

import os

# One thread for models this small: on a busy machine, threads that wait for each other take ten times as long.
# Inherited by the processes that tests start, so that weights trained here and there are alike to the bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
