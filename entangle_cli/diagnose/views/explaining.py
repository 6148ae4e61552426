"""What a name in the output means, answered from the tables that the code itself uses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from entangle_cli.analysis.losses.table import LOSSES, OTHER_NAMES
from entangle_cli.analysis.reasons import REASON_MEANINGS
from entangle_cli.analysis.rules import METRICS, metric_meaning
from entangle_cli.data.traps import MESSAGES
from entangle_cli.errors import EXIT_CODES, UsageError
from entangle_cli.records.finding import FINDINGS
from entangle_cli.records.pair import MOVEMENT_MEANINGS, PAIR_FIELDS, REASONS

CHECKPOINT_WARNINGS = {
    "W-ALL-WEIGHTS": "the same pairs were also measured with all weights of the model; compare shows both",
    "W-DEQUANTISED": "quantised weights were turned into plain ones of the chosen dtype before the scan",
    "W-IGNORED-WEIGHTS": "weights in the checkpoint's files that the model or the adapter does not use",
    "W-LANGUAGE-PART": "a multimodal checkpoint: only its language model is measured, on text",
    "W-NO-EOS": "the tokenizer has no end-of-sequence token, so none was appended to answers",
    "W-OTHER-TOKENIZER": "the tokenizer of --tokenizer gives other numbers to the checkpoint's tokens",
    "W-PICKLED": "the weights were read from pickles, by torch's weights-only loading",
    "W-PLANNED-ADAPTER": "a new LoRA adapter was measured: B is zero at the start, so A has no gradient yet",
    "W-REMOTE-CODE": "code that came with the checkpoint was run, because of --trust-remote-code",
    "W-RESIZED": "the vocabulary was resized for an adapter's tokenizer, and the new rows are made up",
    "W-ROUTER-LOSS": "a mixture of experts: TRL adds the router's auxiliary loss, which is not part of these numbers",
    "W-SLOW": "some parameters are measured by the slow exact way, because no rule covers their use",
    "W-TEMPLATE-DATE": "the chat template writes the date into conversations, so other days give other tokens",
}
"""Codes of warnings on how a checkpoint was loaded."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One thing that a name stands for."""

    name: str
    kind: str
    """What it is: a warning, a field, a loss, ..."""
    text: str
    topic: str
    """The topic of the documentation that says more."""


def topics() -> list[str]:
    """The topics of the documentation."""
    found = (path.name for path in resources.files("entangle_cli.docs").iterdir())
    return sorted(name.removesuffix(".md") for name in found if name.endswith(".md"))


def topic_text(name: str) -> str:
    """A topic as Markdown."""
    return resources.files("entangle_cli.docs").joinpath(f"{name}.md").read_text(encoding="utf-8")


def explain(name: str) -> list[Explanation]:
    """Everything that a name stands for, options of commands last.

    Raises:
        UsageError: nothing; it suggests names that are near.
    """
    wanted = OTHER_NAMES.get(_plain(name), name)
    found = [each for each in _all() if _plain(each.name) == _plain(wanted)]
    if not found and (meaning := metric_meaning(_plain(name))) is not None:
        found = [Explanation(_plain(name), "metric of a rule", meaning, "ci")]
    if found:
        return found
    known = [*topics(), *dict.fromkeys(each.name for each in _all())]
    near = difflib.get_close_matches(_plain(name), [_plain(each) for each in known], n=3, cutoff=0.5)
    shown = [each for word in near for each in known if _plain(each) == word]
    raise UsageError(
        f"nothing to explain under {name!r}",
        f"a topic ({', '.join(topics())}), a warning's code, a field, a loss, a metric, a command, an option, a skip "
        "reason or an exit code",
        f"did you mean {', '.join(dict.fromkeys(shown))}?" if shown else "see entangle explain",
    )


def _plain(name: str) -> str:
    return name.strip().lstrip("-").lower().replace("-", "_").replace(" ", "_")


def _all() -> Iterator[Explanation]:
    for code, sentence in {**MESSAGES, **CHECKPOINT_WARNINGS}.items():
        yield Explanation(code, "warning", sentence, "data")
    for code, (severity, sentence) in FINDINGS.items():
        yield Explanation(code, f"finding of entangle doctor, {severity.value}", sentence, "trainers")
    for one in PAIR_FIELDS.values():
        kind = f"field of a pair, {one.kind.value}" + (", depends on the loss" if one.by_loss else "")
        yield Explanation(one.name, kind, one.meaning, "reports")
    for movement, meaning in MOVEMENT_MEANINGS.items():
        yield Explanation(movement.value, "movement", meaning, "reports")
    for loss in LOSSES.values():
        numbers = "".join(f"\n{name} ({option.default:g}): {option.meaning}" for name, option in loss.options.items())
        text = f"{loss.title}\nloss of one pair: {loss.formula}\nsource: {loss.source}{numbers}"
        yield Explanation(loss.name, "loss", text, "losses")
    for metric, meaning in METRICS.items():
        yield Explanation(metric, "metric of a rule", meaning, "ci")
    for code, meaning in REASON_MEANINGS.items():
        yield Explanation(code.value, "reason of a run", meaning, "reports")
    for reason, meaning in REASONS.items():
        yield Explanation(reason, "reason", meaning, "data")
    for exit_code, meaning in EXIT_CODES.items():
        yield Explanation(str(exit_code.value), "exit code", meaning, "ci")
    for trainer in ("TRL", "axolotl", "LLaMA-Factory"):
        yield Explanation(
            trainer, "trainer", "--from and entangle doctor read the file of a training with it.", "trainers"
        )
    yield from _glossary()
    yield from _commands()


def _glossary() -> Iterator[Explanation]:
    for words, text in re.findall(r"^- \*\*(.+?)\*\*: (.+)$", topic_text("glossary"), re.MULTILINE):
        for word in words.split(", "):
            yield Explanation(word, "word", text, "glossary")


COMMAND_TOPICS = {
    "inspect": "data",
    "doctor": "trainers",
    "forecast": "forecast",
    "rehearse": "training",
    "compare": "training",
    "gate": "ci",
    "merge": "scale",
    "report": "reports",
    "show": "reports",
}
"""Command to the topic that says most about it; the others have their options."""


def _commands() -> Iterator[Explanation]:
    """The commands, then their options, from the topic of options."""
    _, *parts = re.split(r"^## entangle ", topic_text("options"), flags=re.MULTILINE)
    options: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        command, sentence = part.split("\n\n")[:2]
        yield Explanation(command.strip(), "command", sentence.strip(), COMMAND_TOPICS.get(command.strip(), "options"))
        for name, text in re.findall(r"^\| `(--[\w-]+)`.*?\| (.+) \|$", part, re.MULTILINE):
            options.setdefault((name, text), []).append(command.strip())
    for (name, text), commands in options.items():
        yield Explanation(name, f"option of {', '.join(commands)}", text.replace("\\|", "|"), "options")
