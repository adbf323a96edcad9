"""`python -m openmae` is `openmae`; `torchrun -m openmae` needs it."""

import sys

from openmae.commandline.interrupts import leave_silently, leave_when_asked


def start() -> int:
    """A process's own command, from its first moment on; returns its exit code."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    leave_when_asked(command)
    from openmae.cli import main  # a tenth of a second, and much more on a busy machine

    code = main()
    leave_silently(command, code)
    return code


if __name__ == "__main__":
    sys.exit(start())
