"""The process that something belongs to: after a fork the child has neither its threads nor, perhaps, its locks."""

import os

from sundae_rt.errors import SundaeError


class Process:
    """The process in which it is made."""

    def __init__(self) -> None:
        self._id = os.getpid()

    @property
    def is_this(self) -> bool:
        """Whether it is the one that runs."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Refuse to go on in another.

        Raises:
            SundaeError: the process was forked since.
        """
        if not self.is_this:
            raise SundaeError("the runtime was loaded before this process was forked: load it here, or start by spawn")
