"""The errors that this package raises on purpose.

Every one is a `SundaeError`, and its message is one line that names the offending value and says what to do:

    SundaeError           anything below, and the use of a runtime after `close()`
    ├── InputError        an argument, image, mask or path that the caller gave is out of range or unusable
    ├── BundleError       a bundle is missing, damaged, of an unknown kind, or lacks the graph that a call needs
    ├── BackendError      an execution backend is missing, or failed while it loaded or ran a graph
    └── QueueFullError    too many images wait already: try again later

Anything else that escapes is a bug.
"""


class SundaeError(Exception):
    """The base of all errors of this package; its text is one line, fit to be shown to a user as it is."""


class InputError(SundaeError):
    """A value that the caller gave is out of range or unusable."""


class BundleError(SundaeError):
    """A bundle is missing, damaged, of an unknown kind, or lacks what a call needs."""


class BackendError(SundaeError):
    """An execution backend is missing, or failed while it loaded or ran a graph."""


class QueueFullError(SundaeError):
    """More images would wait than the runtime's `max_waiting` allows."""


def shown(value: object) -> str:
    """The value as an error's message quotes it: one line, and not a long one."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of too many digits, or whatever a foreign class may raise
        text = f"a value of the type {type(value).__name__} that cannot be printed"
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error: Exception) -> str:
    """The text of a foreign error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
