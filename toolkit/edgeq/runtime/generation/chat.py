"""Chat templates: the Jinja source a model brings, rendered in a sandbox in a process with limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from edgeq.errors import DataError, MissingExtraError, UnsupportedError
from edgeq.runtime.generation.settings import GenerationSettings
from edgeq.runtime.generation.template_process import templates

ROLES = ("system", "user", "assistant", "tool")


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
        DataError: messages are malformed, or the template is, it refuses them, or takes more than it may.
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
    if not _has_jinja():
        raise MissingExtraError("rendering a chat template", "llm")
    return templates.render(source, context, now)


def _has_jinja() -> bool:
    try:
        return find_spec("jinja2") is not None
    except ValueError:  # it is there only in name
        return False
