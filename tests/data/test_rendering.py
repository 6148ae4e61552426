"""Chat templates have limits on memory and time, and otherwise render the same text as in transformers."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from transformers import AutoTokenizer

from entangle_cli.data import rendering
from entangle_cli.data.rendering import TemplateRefusal, TemplateTooLarge, TemplateUnusable, isolated_templates
from entangle_cli.errors import UnfinishedError

TOKENIZER: Any = AutoTokenizer.from_pretrained(Path(__file__).resolve().parents[2] / "sample_data/model")
MESSAGES = [
    {"role": "system", "content": "Be brief & kind <b>. \ud83d"},
    {"role": "user", "content": "Hé,\n\twhat is 20 % of 5?"},
    {"role": "assistant", "content": "<think>one</think> One.", "tool_calls": [{"name": "f", "arguments": {"a": [1]}}]},
]


def rendered(template: str, limit: int = 2**20, seconds: float = 30.0, **settings: Any) -> Any:
    with isolated_templates(limit, seconds):
        return TOKENIZER.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, **settings)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}",
        "{% macro t(m) %}{{ m.role ~ loop }}{% endmacro %}{% for m in messages[::-1] %}{{ t(m) }}{% endfor %}",
        "{{ bos_token }}{{ tools }}{{ documents }}{{ extra.a }}{{ '%s' | format(extra) }}",
        "{% generation %}answer{% endgeneration %}{{ messages | map(attribute='role') | join('\n') }}",
    ],
)
def test_a_template_renders_what_transformers_renders(template: str) -> None:
    settings: dict[str, Any] = {"tools": [{"name": "f", "parameters": {"x": 1.5}}], "extra": {"a": ("b", None)}}
    plain = TOKENIZER.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, **settings)
    assert rendered(template, **settings) == plain
    whole = TOKENIZER.apply_chat_template(MESSAGES[1:2], chat_template=template, return_dict=True, **settings)
    with isolated_templates(2**20):
        assert (
            TOKENIZER.apply_chat_template(MESSAGES[1:2], chat_template=template, return_dict=True, **settings) == whole
        )


def test_template_errors_are_reported() -> None:
    with pytest.raises(TemplateRefusal, match="no system role"):
        rendered("{{ raise_exception('no system role') }}")
    with pytest.raises(TemplateRefusal, match="undefined"):
        rendered("{{ missing.part }}")
    with pytest.raises(TemplateRefusal):
        rendered("{% for %}")
    assert rendered("{{ 1 + 1 }}") == "2"


TOO_LARGE = {
    "a product": "{{ 'a' * 2000000 }}",
    "all memory": "{{ ('a' * 10000000000) | length }}",
    "a list": "{{ ([range(100000)] * 100000) | map('list') | list | length }}",
    "characters in a chain": "{% set s = '😀' * 5000000 %}{{ s | batch(1) | batch(1) | batch(1) | list | length }}",
    "widths": "{% set x = ('%(a)99999s' * 100000) % {'a': ''} %}x",
    "precisions": "{% set x = ('%(a).99999f' * 100000) % {'a': 1.0} %}x",
    "nested JSON": "{% set n = namespace(x=[]) %}{% for i in range(250) %}{% set n.x = [n.x] %}{% endfor %}"
    "{% set y = n.x | tojson(indent=36000000) %}x",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "arguments": "{% set s = '😀' * 5000000 %}{% macro m() %}{{ m(*varargs) }}{% endmacro %}{{ m(*s) }}",
}
ENDLESS = {
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "a loop's condition": "{% set s = 'a' * 8000000 %}{% for c in s if 'b' in s %}{% endfor %}x",
    "a power": "{{ (7 ** (10 ** 8)) % 10 }}",
    "equality": "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(45) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "a long template": "{{ a }}" * 900_000,
}


@pytest.mark.parametrize("template", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_template_that_takes_too_much_is_refused(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering._renderer, "_deaths", 0)
    with pytest.raises((TemplateTooLarge, TemplateRefusal)):
        rendered(template)
    assert rendered("{{ 1 + 1 }}") == "2"


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_ends_in_time(template: str) -> None:
    start = time.monotonic()
    with pytest.raises((TemplateUnusable, TemplateTooLarge), match=r"more than 0\.5 seconds|memory"):
        rendered(template, seconds=0.5)
    assert time.monotonic() - start < 20
    assert rendered("{{ 1 + 1 }}") == "2"


def test_a_dead_process_is_restarted_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = rendering._Renderer()
    monkeypatch.setattr(rendering, "_renderer", renderer)
    expected = [TemplateTooLarge] * (rendering.MOST_DEATHS - 1) + [TemplateUnusable]
    for error in expected:
        assert rendered("{{ 1 + 1 }}") == "2"
        assert renderer._process is not None
        Timer(0.3, renderer._process.kill).start()
        with pytest.raises(error, match="ends the process"):
            rendered(ENDLESS["loops"])
    renderer.stop()


def test_the_limit_is_on_the_text() -> None:
    assert len(rendered("{{ 'a' * 1000 }}", 1000)) == 1000
    with pytest.raises(TemplateTooLarge, match="a text of 1,000 characters; --max-row-bytes raises the limit"):
        rendered("{{ 'a' * 1000 }}", 999)


def test_transformers_is_unchanged_outside() -> None:
    with pytest.raises(TemplateTooLarge):
        rendered("{{ 'a' * 1000 }}", 10)
    assert len(TOKENIZER.apply_chat_template(MESSAGES, chat_template="{{ 'a' * 1000 }}", tokenize=False)) == 1000


def test_a_process_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_renderer", rendering._Renderer())
    monkeypatch.setattr(rendering, "START_SECONDS", 0.01)
    with pytest.raises(UnfinishedError, match="does not start"):
        rendered("{{ 1 + 1 }}")
