"""The command line. `main` is the console script: it maps every failure to a message, a hint and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from edgeq.cli.app import build_app
from edgeq.cli.output import Out, print_error
from edgeq.cli.streams import exit_on_termination, point_at_nothing, prepare_streams
from edgeq.errors import EXTRA_OF, EdgeqError, ExitCode, MissingExtraError

INTERRUPTED = 130
"""What a shell reports for a process that SIGINT ended."""


def main() -> None:
    """Run the command line and exit with the code of `edgeq.errors.ExitCode` (130 after Ctrl-C)."""
    prepare_streams()
    exit_on_termination()
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit code and prints errors to stderr.

    With `--json`, a command that fails before its document is out prints `{"error": {...}}` instead.
    """
    Out.documents = 0
    failure = _Failures("--json" in argv)
    try:
        status = _run(argv)
        sys.stdout.flush()
    except EdgeqError as error:
        return failure(error.exit_code, error.message, error.hint)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except OSError as error:
        _abandon_stdout()
        return failure(ExitCode.USER, *_describe_os_error(error))
    except SystemExit as signalled:
        return failure(_status(signalled), "terminated; nothing half-written was left behind", None)
    except Exception as error:
        return _report_unexpected(error, failure)
    # Typer turns Ctrl-C into this status by itself and says nothing.
    if status == INTERRUPTED:
        # An interrupt inside exec(), as in torch's trace, leaves a flag by which `python -m` dies of SIGINT at its end;
        # the next exec() clears it.
        exec("")
        return failure(INTERRUPTED, "interrupted; nothing half-written was left behind", None)
    return status


class _Failures:
    """Reports a failure to people, and to programs that asked for JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, status: int, message: str, hint: str | None) -> int:
        print_error(message, hint)
        self.document(status, message, hint)
        return status

    def document(self, status: int, message: str, hint: str | None) -> None:
        """One JSON document in every outcome: this one, unless the command's own is out."""
        if self.as_json and not Out.documents:
            facts = {"message": message, "hint": hint, "exit_code": int(status)}
            with contextlib.suppress(OSError):  # stdout itself may be what failed
                Out(json_mode=True).result({"error": facts})


def _run(argv: Sequence[str]) -> int:
    result = build_app()(list(argv), standalone_mode=False)
    return result if isinstance(result, int) else ExitCode.OK


def _abandon_stdout() -> None:
    """A stdout that failed once fails again when Python flushes it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        point_at_nothing(sys.stdout)


def _status(signalled: SystemExit) -> int:
    return signalled.code if isinstance(signalled.code, int) else ExitCode.INTERNAL


def _describe_os_error(error: OSError) -> tuple[str, str | None]:
    where = f": `{error.filename}`" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on device{where}", "free some space, or choose another place with --output"
    return f"{error.strerror or error}{where}", None


def _report_unexpected(error: Exception, failure: _Failures) -> int:
    """Usage errors of the option parser, then everything else, which is a bug of ours."""
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        show()
        failure.document(error.exit_code, str(getattr(error, "message", error)), None)
        return int(error.exit_code)
    if os.environ.get("EDGEQ_DEBUG"):
        import traceback

        traceback.print_exc()
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRA_OF.get(error.name or "")):
        missing = MissingExtraError("this command", extra)
        return failure(missing.exit_code, missing.message, missing.hint)
    if isinstance(error, MemoryError):
        hint = "close other programs, or choose a smaller model or --calib-samples"
        return failure(ExitCode.USER, "out of memory", hint)
    return failure(
        ExitCode.INTERNAL,
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug in edgeq; run again with EDGEQ_DEBUG=1 for the traceback and report it",
    )
