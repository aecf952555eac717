"""The command line, `sundae-rt COMMAND ...`: one module a command, imported when that command is asked for.

Exit codes: 0 done, 1 a `SundaeError` (bad input, bundle or backend), 2 a wrong command line, 130 interrupted. Whatever
goes wrong is said in one line on stderr. Command modules import NumPy, Pillow and the runtime inside the command, so
that `--help` answers at once.
"""

import importlib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from sundae_rt import __version__
from sundae_rt.cli.interrupts import terminate_gently
from sundae_rt.errors import SundaeError

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, as shells have it."""

_COMMANDS = ("generate", "inpaint", "encode", "train", "export", "build", "info", "bench")

# Which extra installs what a command needs beyond the runtime, and what the command calls its work.
_EXTRAS = {"encode": ("train", "encoding"), "train": ("train", "training"), "export": ("export", "exporting")}
_PACKAGES = {"torch": "PyTorch", "yaml": "PyYAML"}


class _Commands(click.Group):
    """A group whose commands are the variable `command` of the modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"sundae_rt.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "sundae_rt"):
                raise
            if missing == "onnxruntime":
                from sundae_rt.backends import installation

                raise SundaeError(installation.fault() or str(error)) from error
            extra, work = _EXTRAS.get(ctx.invoked_subcommand or "", (None, "sundae-rt"))
            package = f"sundae-rt[{extra}]" if extra else "sundae-rt"
            raise SundaeError(f"{work} needs {_PACKAGES.get(missing, missing)}: pip install '{package}'") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sundae-rt", message="%(prog)s %(version)s")
def commands() -> None:
    """Generate and inpaint images with step-unrolled denoising autoencoders (SUNDAE)."""


def main() -> NoReturn:
    """Run the command line of this process, and exit with its code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow thinks of a file's metadata
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings_of_runtime = logging.StreamHandler()
    warnings_of_runtime.setLevel(logging.WARNING)
    warnings_of_runtime.setFormatter(logging.Formatter("sundae-rt: %(message)s"))
    logging.getLogger("sundae_rt").addHandler(warnings_of_runtime)
    terminate_gently()
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C, while threads end, brings no traceback
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command, say what goes wrong in one line on stderr, and return the exit code."""
    try:
        code = commands.main(list(arguments), prog_name="sundae-rt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "sundae-rt"
        return _failed(f"{error.format_message()} (see {command} --help)", error.exit_code, command)
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", INTERRUPTED)
    except SundaeError as error:
        return _failed(str(error), 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        return _failed(f"{place}{error.strerror or error}", 1)
    except MemoryError as error:
        return _failed(f"out of memory: {error}" if str(error) else "out of memory", 1)
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int, prefix: str = "sundae-rt") -> int:
    line = " ".join(message.split())
    # A bundle or an image that somebody sent may have had a say in it, but shall not move the terminal's cursor.
    click.echo(f"{prefix}: {''.join(sign if sign.isprintable() else '?' for sign in line)}", err=True)
    return code
