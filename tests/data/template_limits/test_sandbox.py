"""A chat template can neither take all memory nor run for ever, and otherwise renders what transformers renders."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from textwrap import dedent
from typing import Any

import pytest
from transformers.utils import chat_template_utils as untyped

from entangle_cli.data.template_limits.budget import TemplateTooLarge, TemplateTooSlow
from entangle_cli.data.template_limits.sandbox import bounded_templates

chat_template_utils: Any = untyped

MESSAGES = [
    {"role": "system", "content": "Be brief & kind <b>."},
    {"role": "user", "content": "Hé,\n\twhat is 20 % of 5? See a.example"},
    {
        "role": "assistant",
        "content": "<think>one</think> One.",
        "tool_calls": [{"name": "f", "arguments": {"a": [1, 2]}}],
    },
]


def rendered(template: str, limit: int | None = 2**20, seconds: float = 30.0) -> str:
    """The text of a template, compiled afresh."""
    chat_template_utils._compile_jinja_template.cache_clear()
    with nullcontext() if limit is None else bounded_templates(limit, seconds):
        texts, _ = chat_template_utils.render_jinja_template(conversations=[MESSAGES], chat_template=template)
    chat_template_utils._compile_jinja_template.cache_clear()
    return str(texts[0])


HONEST = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}"
    "{{ m.content.split('</think>')[-1].strip() }}{% endfor %}",
    "{{ messages[::-1] | map(attribute='role') | join(', ') }} {{ messages | tojson }} {{ messages|tojson(indent=2) }}",
    "{{ messages[2].tool_calls }} {{ messages[2].tool_calls | string }} {{ messages[2] | items | list }}",
    "{% macro turn(m, n=2) %}{{ m.role * n }}{% if n %}{{ turn(m, n - 1) }}{% endif %}{% endmacro %}"
    "{{ turn(messages[0]) }}",
    "{% set ns = namespace(s='', l=[]) %}{% for m in messages if m.role != 'system' %}"
    "{% set ns.s = ns.s ~ loop.index ~ m.role %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.s }} {{ ns.l }}",
    "{{ '%s has %5d' | format('a', 3) }} {{ '%(k)s' % {'k': 'v'} }} {{ '{} {x:>4}'.format(1, x='y') }}",
    "{{ '{a}'.format_map({'a': '<b>'}) }} {{ ('<i>{}</i>' | safe).format('<b>') }}",
    "{{ 'a b' | replace(' ', '-') | center(9) | indent(2, true) | wordwrap(3) | title }} {{ 'x'.zfill(4) }}",
    "{{ [3, 1, 2] | sort | batch(2, 0) | list }} {{ range(9) | slice(2) | map('list') | list }} {{ [1, 2] | sum }}",
    "{{ messages | sum(attribute='role', start='') if false else [[1], [2]] | sum(start=[]) }} {{ [1.5, 2] | sum }}",
    "{{ 2 ** 10 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ -3 * 1.5 }} {{ 1.26 | round(1, 'floor') }} "
    "{{ (1, 2) * 2 }} {{ [0] * 3 }}",
    "{% filter upper %}a{% for c in 'bc' %}{{ c }}{% endfor %}{% endfilter %}{% set b %}x{{ 1 }}"
    "{% endset %}{{ b | length }}",
    "{% macro w() %}<{{ caller('x') }}>{% endmacro %}{% call(x) w() %}{{ x }}{% endcall %}",
    "{% autoescape true %}{{ '<b>' }}{{ '<i>' ~ 1 }}{{ ['<'] | join('&') }}{{ 'a<' | escape }}{% endautoescape %}",
    "{% for r in [[1, [2]], [3]] recursive %}{{ loop(r) if r is iterable else r }},{% endfor %}",
    "{{ dict(a=1, b=[2]) }} {{ {'a': {'b': messages[0]}} }} {{ ('a', messages[0].role) }} "
    "{{ not_there }}|{{ missing is defined }}",
    "{% generation %}answer{% endgeneration %}{% for i in range(5) %}{% if i == 1 %}{% continue %}"
    "{% endif %}{{ i }}{% endfor %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
    "{{ messages | rejectattr('tool_calls') | first }}",
    "{{ 'see a.example' | urlize(target='_blank') }} {{ '<p>x</p>' | striptags }} "
    "{{ {'a': 1} | xmlattr }} {{ 'a b' | wordcount }}",
    "{{ 'a,b'.split(',') }} {{ ','.join(['a', 'b']) }} {{ 'a\tb'.expandtabs(4) }} {{ 'ab'.translate({97: 'zz'}) }}",
    "{{ messages[1].content[2:] }} {{ messages[1].content[::-1] }} {{ messages[0].items() | list }} "
    "{{ messages | groupby('role') }}",
]


@pytest.mark.parametrize("template", HONEST)
def test_an_honest_template_renders_what_transformers_renders(template: str) -> None:
    assert rendered(template) == rendered(template, limit=None)


GROWING = "{% set ns = namespace(s=START) %}{% for i in range(40) %}{% set ns.s = STEP %}{% endfor %}"
TOO_LARGE = {
    "product": "{{ 'a' * 1000000000 }}",
    "product of a list": "{{ ([0] * 1000000000) | length }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "digits": GROWING.replace("START", "10").replace("STEP", "ns.s * ns.s"),
    "sum of texts": GROWING.replace("START", "'ab'").replace("STEP", "ns.s + ns.s"),
    "join of texts": GROWING.replace("START", "'ab'").replace("STEP", "ns.s ~ ns.s"),
    "nested lists": GROWING.replace("START", "1").replace("STEP", "[ns.s, ns.s]") + "{{ ns.s }}",
    "nested objects": GROWING.replace("START", "1").replace("STEP", "{'a': ns.s, 'b': ns.s}") + "{{ ns.s == ns.s }}",
    "nested namespaces": GROWING.replace("START", "1").replace("STEP", "namespace(a=ns.s, b=ns.s)") + "{{ ns.s }}",
    "output of a loop": "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "empty loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{% set a = f(n - 1) %}"
    "{% set b = f(n - 1) %}{% endif %}"
    "{% endmacro %}{% set a = f(60) %}",
    "center": "{{ 'a' | center(1000000000) }}",
    "center, a method": "{{ 'a'.center(1000000000) }}",
    "a method by its name": "{{ ('a' | attr('zfill'))(1000000000) }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "bytes of a number": "{{ (1).to_bytes(1000000000, 'big') | length }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format, an operator": "{{ '%*d' % (1000000000, 1) }}",
    "format, a method": "{{ '{:1000000000}'.format(1) }}",
    "format with a width that is given": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "format of a map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format of one text many times": "{% set a = 'a' * 100000 %}{{ ('%(a)s' * 10000) % {'a': a} }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "map": "{{ ([range(100000)] * 100000) | map('list') | list }}",
    "replace": "{% set a = 'a' * 5000 %}{{ a | replace('a', a) }}",
    "replace, a method": "{% set a = 'a' * 5000 %}{{ a.replace('a', a) | length }}",
    "join": "{% set a = 'a' * 5000 %}{{ range(10000) | join(a) }}",
    "join, a method": "{% set a = 'a' * 5000 %}{{ a.join(a) | length }}",
    "join of what map gives": "{{ range(100000) | map('string') | map('center', 100000) | join }}",
    "indent": "{{ ('\n' * 50000) | indent(100000) }}",
    "wordwrap": "{% set a = 'a' * 100000 %}{{ a | wordwrap(1, true, a) }}",
    "translate": "{% set a = 'a' * 100000 %}{{ a.translate({97: a}) | length }}",
    "urlize": "{{ ('a.com ' * 10000) | urlize(target='x' * 10000) }}",
    "parts of a text": "{% set s = 'abcdefgh' * 10000 %}{% set x %}{% for i in range(80000) %}"
    "{{ s[i:] }}{% endfor %}{% endset %}",
    "a list again and again": "{% set l = range(10000) | list %}{% set x %}{% for i in l %}{{ l }}"
    "{% endfor %}{% endset %}",
    "sum of lists": "{{ ([[1]] * 50000) | sum(start=[]) | length }}",
    "indented JSON": "{{ [[1]] | tojson(indent=1000000000) }}",
    "round": "{{ 1.5 | round(100000000, 'ceil') }}",
    "a constant": "{{ 'x' | center(99999999999) }}",
}


@pytest.mark.parametrize("template", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_template_that_grows_is_refused(template: str) -> None:
    with pytest.raises(TemplateTooLarge):
        rendered(template)


def test_a_template_ends_in_time() -> None:
    with pytest.raises(TemplateTooSlow, match=r"more than 0\.05 seconds"):
        rendered("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", 2**40, 0.05)


def test_the_longest_text_is_the_limit() -> None:
    assert len(rendered("{{ 'a' * 1000 }}", 1001)) == 1000
    with pytest.raises(TemplateTooLarge, match="999 characters; --max-row-bytes raises the limit"):
        rendered("{{ 'a' * 1000 }}", 999)


def test_templates_outside_keep_their_ways() -> None:
    before = chat_template_utils.ImmutableSandboxedEnvironment
    with pytest.raises(TemplateTooLarge):
        rendered("{{ 'a' * 1000 }}", 10)
    assert chat_template_utils.ImmutableSandboxedEnvironment is before
    assert len(rendered("{{ lipsum(n=1) }}", limit=None)) > 100
    assert len(rendered("{{ 'a' * 1000 }}", limit=None)) == 1000


def test_the_memory_of_the_attacks_is_bounded() -> None:
    program = dedent(
        """
        import resource, sys
        from tests.data.template_limits.test_sandbox import TOO_LARGE, rendered
        rendered("{{ messages }}")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for template in TOO_LARGE.values():
            try:
                rendered(template, 2**21)
            except Exception:
                pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 300_000
