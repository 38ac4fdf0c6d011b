"""The process that renders chat templates: reads a JSON request a line, writes a JSON answer a line.

A template is a program of strangers. Jinja's sandbox keeps it from everything but time and memory, which only a process
of its own can be kept from. Run by path, so nothing of edgeq is imported.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

MAX_RENDERED = 4 << 20
"""Characters: a template that writes more is broken or hostile."""
CPU_SECONDS = 0.8
MEMORY_BYTES = 384 << 20
"""Of address space, of which the interpreter takes a tenth."""


def main() -> None:
    """Answer until nobody asks any more."""
    sys.path[:] = json.loads(sys.argv[1])
    environment = _environment()
    _limit_memory()
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(CPU_SECONDS)
        answer = json.dumps(_answer(environment, request))
        _limit_time(0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The options and names transformers renders with, so that templates mean the same here.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], cache_size=0
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment


def _limit_memory() -> None:
    # Windows has no such limits, and macOS does not keep this one: there the caller's clock is all.
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Of this process's own work; its end is the signal's default."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(environment: Any, request: dict[str, Any]) -> dict[str, Any]:
    import jinja2

    now = request["now"] and datetime.fromisoformat(request["now"])
    # By the user's own clock, as transformers has it.
    environment.globals["strftime_now"] = lambda form: (now or datetime.now()).strftime(form)
    try:
        template = environment.from_string(_without_generation_tags(request["source"]))
        rendered = template.render(**request["context"])
        rendered.encode("utf-8")
    except jinja2.TemplateSyntaxError as error:
        return {"malformed": f"line {error.lineno}: {error.message}"}
    except _RefusedError as error:
        return {"refused": str(error)[:1000]}
    except Exception as error:  # whatever it trips over
        return {"failed": f"{type(error).__name__}: {error}"[:1000]}
    return {"text": rendered} if len(rendered) <= MAX_RENDERED else {"length": len(rendered)}


class _RefusedError(Exception):
    """Raised by a template's `raise_exception`."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


def _without_generation_tags(source: str) -> str:
    """What the assistant says stands in a tag of transformers' own; rendered, it is a scope like `with`."""
    return re.sub(r"(\{%[-+]?\s*(?:end)?)generation(?=\s*[-+]?%\})", r"\1with", source)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


if __name__ == "__main__":
    # What it has to say is its answer: a traceback of its end would be the template's.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    main()
