"""Chat templates: the Jinja source a model brings, rendered in a sandbox that cannot reach anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from edgeq.errors import DataError, MissingExtraError, UnsupportedError
from edgeq.runtime.generation.settings import GenerationSettings

ROLES = ("system", "user", "assistant", "tool")
MAX_RENDERED = 4 << 20
"""Characters: a template that writes more is broken or hostile."""
REFUSES = "the chat template refuses these messages: "
"""Before what a template says with `raise_exception`: all other errors are worded by Jinja or Python."""


def render_chat(
    settings: GenerationSettings,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    now: datetime | None = None,
) -> str:
    """The prompt a chat becomes.

    Args:
        settings: of the bundle; its template and special tokens are used.
        messages: `{"role": "user", "content": "..."}`, oldest first.
        add_generation_prompt: end where the assistant's answer begins.
        now: the time that templates are told; the user's clock when left out.

    Raises:
        UnsupportedError: the model has no chat template.
        DataError: messages are malformed, or the template is, or it refuses them.
        MissingExtraError: jinja2 is not installed.
    """
    if settings.chat_template is None:
        raise UnsupportedError(
            "this model has no chat template", hint="give it plain text: --prompt without --chat"
        )
    checked = [_checked(index, message) for index, message in enumerate(messages)]
    if not checked:
        raise DataError("a chat needs at least one message")
    context = {
        "messages": checked,
        # transformers passes these two always: templates compare them with none.
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": settings.bos_token or "",
        "eos_token": settings.eos_token or "",
    }
    return _render(settings.chat_template, context, now)


def _checked(index: int, message: Mapping[str, str]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise DataError(
            f"message {index} has role {role!r} and content of type {type(content).__name__}; "
            f"expected a role of {', '.join(ROLES)} and text"
        )
    return {"role": role, "content": content}


def _render(source: str, context: Mapping[str, Any], now: datetime | None) -> str:
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtraError("rendering a chat template", "llm") from error

    # The options and names transformers renders with, so that templates mean the same here.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: _at(now, form),
    }
    try:
        rendered = environment.from_string(_without_generation_tags(source)).render(**context)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            f"the chat template is not valid Jinja, line {error.lineno}: {error.message}"
        ) from error
    except _RefusedError as error:
        raise DataError(f"{REFUSES}{error}") from error
    except Exception as error:  # a template is a program of strangers: whatever it trips over
        raise DataError(f"the chat template fails: {type(error).__name__}: {error}") from error
    if len(rendered) > MAX_RENDERED:
        raise DataError(
            f"the chat template wrote {len(rendered)} characters, expected at most {MAX_RENDERED}"
        )
    return rendered


class _RefusedError(Exception):
    """Raised by a template's `raise_exception`."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedError(message)


def _at(now: datetime | None, form: str) -> str:
    """The time, for templates that tell the model today's date."""
    # By the user's own clock, as transformers has it.
    return (now or datetime.now()).strftime(form)


def _without_generation_tags(source: str) -> str:
    """What the assistant says stands in a tag of transformers' own; rendered, it is a scope like `with`."""
    return re.sub(r"(\{%[-+]?\s*(?:end)?)generation(?=\s*[-+]?%\})", r"\1with", source)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
