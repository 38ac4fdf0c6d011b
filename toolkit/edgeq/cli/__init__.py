"""The command line. `main` is the console script: it maps every failure to a message, a hint and an exit code."""

from __future__ import annotations

import errno
import os
import sys

from edgeq.cli.output import print_error
from edgeq.errors import EdgeqError, ExitCode

INTERRUPTED = 130
"""What a shell reports for a process that SIGINT ended."""


def main() -> None:
    """Run the command line and exit with the code of `edgeq.errors.ExitCode` (130 after Ctrl-C)."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(argv: list[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr."""
    from edgeq.cli.app import build_app

    try:
        result = build_app()(argv, standalone_mode=False)
        status = result if isinstance(result, int) else ExitCode.OK
    except EdgeqError as error:
        print_error(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout went away (`edgeq ... | head`); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        print_error(*_describe_os_error(error))
        return ExitCode.USER
    except Exception as error:
        return _report_unexpected(error)
    # Typer turns Ctrl-C into this status by itself and says nothing.
    if status == INTERRUPTED:
        print_error("interrupted; nothing half-written was left behind", None)
    return status


def _describe_os_error(error: OSError) -> tuple[str, str | None]:
    where = f": `{error.filename}`" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on device{where}", "free some space, or choose another place with --output"
    return f"{error.strerror or error}{where}", None


def _report_unexpected(error: Exception) -> int:
    """Usage errors of the option parser, then everything else, which is a bug of ours."""
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        show()
        return int(error.exit_code)
    if os.environ.get("EDGEQ_DEBUG"):
        import traceback

        traceback.print_exc()
    if isinstance(error, MemoryError):
        print_error("out of memory", "close other programs, or choose a smaller model or --calib-samples")
        return ExitCode.USER
    print_error(
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug in edgeq; run again with EDGEQ_DEBUG=1 for the traceback and report it",
    )
    return ExitCode.INTERNAL
