"""The date in a chat template: rendered as by transformers on that day, and the same on every other day."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from entangle_cli.data.chat_template import DIRECTIVES, set_date, uses_date
from entangle_cli.data.origin import origin_of
from entangle_cli.data.tokenizer import load_tokenizer
from entangle_cli.errors import UsageError
from entangle_cli.records.settings import LoadingSettings
from tests.data.tokenizers import small_tokenizer

DATED = (
    "{%- if strftime_now is defined %}{%- set today = strftime_now('%d %b %Y, %A, 100%%') %}{%- endif %}{{ today }}"
    "{%- macro year() %}{{ strftime_now('%Y') }}{%- endmacro %}{{ year() }}"
    "{%- for message in messages %}{{ strftime_now('" + " ".join(DIRECTIVES) + "') }}{{ message.content }}{%- endfor %}"
)
HELLO = [{"role": "user", "content": "hi"}]


def test_the_day_is_what_transformers_would_render() -> None:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = DATED
    # The time of day is always midnight, unlike in transformers.
    clock = ("%-H", "%-I", "%-M", "%-S", "%H", "%I", "%M", "%S", "%p", "%f", "%c", "%X")
    for name in clock:
        tokenizer.chat_template = tokenizer.chat_template.replace(name + " ", "").replace(" " + name, "")
    theirs = tokenizer.apply_chat_template(HELLO, tokenize=False)
    set_date(tokenizer, date.today())
    assert tokenizer.apply_chat_template(HELLO, tokenize=False) == theirs


def test_another_day_has_other_text() -> None:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = DATED
    set_date(tokenizer, date(2001, 2, 3))
    assert tokenizer.apply_chat_template(HELLO, tokenize=False).startswith("03 Feb 2001, Saturday, 100%2001")


def test_only_templates_that_ask_for_it_have_a_date(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    assert not uses_date(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(origin_of("x", tmp_path), LoadingSettings(template_date="2001-02-03")).template_date is None
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(origin_of("x", tmp_path), LoadingSettings(template_date="2001-02-03"))
    assert loaded.template_date == "2001-02-03"
    assert "2001-02-03 was used" in loaded.warnings["W-TEMPLATE-DATE"]
    assert load_tokenizer(origin_of("x", tmp_path), LoadingSettings()).template_date == date.today().isoformat()


def test_an_invalid_date_is_refused(tmp_path: Path) -> None:
    small_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        load_tokenizer(origin_of("x", tmp_path), LoadingSettings(template_date="tomorrow"))
