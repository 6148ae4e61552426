"""Names in the output, commands, options and trainers have a meaning."""

from __future__ import annotations

import pytest

from entangle_cli.diagnose.views.explaining import explain


@pytest.mark.parametrize(
    ("name", "kind", "topic"),
    [
        ("doctor", "command", "trainers"),
        ("scan", "command", "options"),
        ("probe", "option of forecast, rehearse", "options"),
        ("--probe", "option of forecast, rehearse", "options"),
        ("axolotl", "trainer", "trainers"),
        ("LLaMA-Factory", "trainer", "trainers"),
    ],
)
def test_commands_options_and_trainers(name: str, kind: str, topic: str) -> None:
    (found,) = explain(name)
    assert (found.kind, found.topic) == (kind, topic)
    assert found.text


def test_every_command_has_a_meaning() -> None:
    from entangle_cli.cli.app import app

    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        assert "command" in {one.kind for one in explain(name)}, name
