"""Chat templates: one from a file, and one whose date stands still."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from entangle_cli.data.paths import refuse_irregular
from entangle_cli.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIRECTIVES = (*(f"%-{name}" for name in "dmHIMSjy"), *(f"%{name}" for name in "aAwdbBmyYHIpMSfjUWZzcxXGuV"))
"""What `strftime` replaces, the longer ones first."""


def template_from(path: Path) -> str:
    """The chat template that a file holds.

    Raises:
        UsageError: it cannot be read, or is no Jinja.
    """
    refuse_irregular(path, UsageError)
    try:
        text = path.read_text(encoding="utf-8")
        # The sandbox is transformers'; here only the grammar is looked at.
        jinja2.Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
        )
    except (OSError, UnicodeDecodeError, RecursionError, jinja2.TemplateError) as error:
        raise UsageError(
            f"--chat-template {path}: {error}",
            "a file with a chat template in Jinja",
            "repair the file, or leave it out",
        ) from error
    return text


def parse_date(text: str) -> date:
    """The date of `--template-date`.

    Raises:
        UsageError: not a date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--template-date {text}: {error}", "a date as YYYY-MM-DD", "write for example --template-date 2026-01-31"
        ) from error


def uses_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template asks for the date, so that a row has other tokens on another day."""
    template: Any = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template]
    return any("strftime_now" in text for text in texts if isinstance(text, str))


def set_date(tokenizer: PreTrainedTokenizerBase, today: date) -> None:
    """Let the chat template of a tokenizer take midnight of a day for the present."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _dated(text, today) for name, text in template.items()}
    else:
        tokenizer.chat_template = _dated(template, today)


def _dated(template: str, today: date) -> str:
    """A template with a `strftime_now` of its own, which goes before transformers' function of that name.

    A function of ours cannot be handed in: transformers passes plain data only into its sandbox.
    """
    now = datetime.combine(today, time())
    replaced = "".join(f"|replace({name!r}, {now.strftime(name)!r})" for name in DIRECTIVES)
    body = f"format|replace('%%', '\\0'){replaced}|replace('\\0', '%')"
    return f"{{%- macro strftime_now(format) -%}}{{{{ {body} }}}}{{%- endmacro -%}}{template}"
