"""Chat templates: reading one from a file, and setting the date in one."""

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
"""The directives of `strftime`, longer ones first."""


def template_from(path: Path) -> str:
    """Read a chat template from a file.

    Raises:
        UsageError: the file cannot be read, or is not valid Jinja.
    """
    refuse_irregular(path, UsageError)
    try:
        text = path.read_text(encoding="utf-8")
        # This checks only the syntax. transformers renders in its own sandbox.
        jinja2.Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
        )
    except (OSError, UnicodeDecodeError, RecursionError, jinja2.TemplateError) as error:
        raise UsageError(
            f"--chat-template {path}: {error}",
            "a file with a chat template in Jinja",
            "fix the file, or omit --chat-template",
        ) from error
    return text


def parse_date(text: str) -> date:
    """Parse the date of `--template-date`.

    Raises:
        UsageError: the text is not a date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--template-date {text}: {error}", "a date as YYYY-MM-DD", "use for example --template-date 2026-01-31"
        ) from error


def uses_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template uses the date. A row's tokens then depend on the day."""
    template: Any = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template]
    return any("strftime_now" in text for text in texts if isinstance(text, str))


def set_date(tokenizer: PreTrainedTokenizerBase, today: date) -> None:
    """Make a tokenizer's chat template use midnight of the given day as the current time."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _dated(text, today) for name, text in template.items()}
    else:
        tokenizer.chat_template = _dated(template, today)


def _dated(template: str, today: date) -> str:
    """Prepend a `strftime_now` macro to a template. It takes precedence over transformers' function of that name.

    transformers passes only plain data into its sandbox, so we cannot pass a function.
    """
    now = datetime.combine(today, time())
    replaced = "".join(f"|replace({name!r}, {now.strftime(name)!r})" for name in DIRECTIVES)
    body = f"format|replace('%%', '\\0'){replaced}|replace('\\0', '%')"
    return f"{{%- macro strftime_now(format) -%}}{{{{ {body} }}}}{{%- endmacro -%}}{template}"
