"""Runs openmae's command line as on a system without POSIX (Windows): openmae's modules do not find what only that has.

The libraries below it are Linux's own all the same: this shows that importing and `--help` need nothing of POSIX, and
no more than that.
"""

import builtins
import os
import signal
import sys
from types import ModuleType
from typing import Any

MODULES = frozenset(("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"))
NAMES = {
    "os": (
        "O_CLOEXEC O_DIRECTORY O_NONBLOCK fork forkpty geteuid getpgid getuid killpg mkfifo pread preadv pwrite "
        "posix_fallocate register_at_fork sched_getaffinity setsid statvfs sysconf uname wait3 wait4"
    ).split(),
    "signal": "SIGALRM SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pthread_sigmask setitimer".split(),
}


class Without(ModuleType):
    """A module without some of its names."""

    def __init__(self, whole: ModuleType, missing: list[str]) -> None:
        super().__init__(whole.__name__)
        self.__dict__.update({name: value for name, value in vars(whole).items() if name not in missing})


HERE = {"os": Without(os, NAMES["os"]), "signal": Without(signal, NAMES["signal"])}
_import = builtins.__import__


def _as_elsewhere(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
    if str((globals or {}).get("__name__", "")).startswith("openmae"):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        if name in HERE:
            return HERE[name]
    return _import(name, globals, locals, fromlist, level)


if __name__ == "__main__":
    builtins.__import__ = _as_elsewhere
    import openmae
    from openmae.cli import COMMANDS, main

    assert openmae.create_model("vit_tiny", img_size=32, patch_size=8).encoder.embed_dim == 192
    for words in (["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)):
        try:
            code = main(words)
        except SystemExit as stopped:
            code = stopped.code
        assert code == 0, (words, code)
    print("\n".join(sorted(name for name in sys.modules if name.startswith("openmae"))))
