"""The program `sundae-rt`, which is also `python -m sundae_rt`."""

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Ctrl-C ends it in one line from the start, while the command line is still being loaded."""
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, or an embedder's
    if raises:
        signal.signal(signal.SIGINT, _leave)
    from sundae_rt.cli import main as command_line

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command_line()
    except KeyboardInterrupt:  # before a command began or after it ended
        _leave()


def _leave(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """End at once: nothing has been begun that would have to be cleaned up."""
    os.write(2, b"sundae-rt: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
