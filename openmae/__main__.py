"""`python -m openmae` is `openmae`; `torchrun -m openmae` needs it."""

import sys

from openmae.cli import main

sys.exit(main())
