"""A local file that stays open, of which many processes read parts."""

import os
import stat

from openmae.errors import BrokenImage

MOST_BYTES = 1 << 31  # of one image, encoded


class OpenFile:
    """Closed when nothing refers to it any more. Forked processes may share it: reading at an offset moves nothing,
    and unlike a memory map it does not end the process when the file is made shorter meanwhile."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.bytes = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """These bytes. Raises OSError where there are fewer now."""
        parts = []
        while length and (part := os.pread(self.descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        if length:
            raise OSError("the file has become shorter")
        return parts[0] if len(parts) == 1 else b"".join(parts)


def read_file(path: str) -> bytes:
    """All of a file. Raises OSError where it cannot be read, and BrokenImage for a pipe or a device (reading one
    might never end) and for more than MOST_BYTES."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImage("it is not a file")
        if status.st_size > MOST_BYTES:
            raise BrokenImage(
                f"its {status.st_size:,} bytes are more than an image has", "if it is a TIFF, cut it by `tile='512'`"
            )
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)
