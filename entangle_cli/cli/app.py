"""The application: its commands, and the one place that turns errors into messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from entangle_cli import __version__
from entangle_cli.cli.compare import compare
from entangle_cli.cli.config import ConfiguredCommand, Option, read_configuration
from entangle_cli.cli.demo import demo
from entangle_cli.cli.doctor import doctor
from entangle_cli.cli.explain import explain
from entangle_cli.cli.filter import filter_rows
from entangle_cli.cli.forecast import forecast
from entangle_cli.cli.gate import gate
from entangle_cli.cli.help import FIRST_STEPS, GroupedCommands
from entangle_cli.cli.inspect import inspect
from entangle_cli.cli.interruption import interrupt
from entangle_cli.cli.merge import merge
from entangle_cli.cli.option_groups import with_option_groups
from entangle_cli.cli.rehearse import rehearse
from entangle_cli.cli.report import report
from entangle_cli.cli.scan import scan
from entangle_cli.cli.schema import schema
from entangle_cli.cli.show import show
from entangle_cli.cli.streams import CANNOT_WRITE, flush_streams, prepare_streams
from entangle_cli.cli.tokens import tokens
from entangle_cli.cli.usage_errors import TyperUsageError, usage_error
from entangle_cli.errors import (
    EntangleError,
    ExitCode,
    UnfinishedError,
    is_out_of_memory,
    out_of_memory,
    unexpected,
)

app = typer.Typer(
    name="entangle",
    cls=GroupedCommands,
    help="Measure gradient entanglement of preference pairs on a causal LM, before training on them.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    *(scan, report, show, gate, forecast, rehearse, inspect, filter_rows, compare, tokens, explain, merge, schema),
    *(demo, doctor),
)
for command in COMMANDS:
    name = "filter" if command is filter_rows else command.__name__
    app.command(name, cls=ConfiguredCommand)(with_option_groups(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"entangle {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Measure gradient entanglement of preference pairs on a causal LM, before training on them."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code, whatever happens.

    Python would exit with 1 on an unexpected error, which is what a failed gate exits with: here that is 4.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words:
            print(FIRST_STEPS)
            return ExitCode.DONE
        commands: Any = typer.main.get_command(app)
        configuration = read_configuration(_options(commands), _working_directory(), os.environ, words)
        code = commands(
            words,
            prog_name="entangle",
            default_map=configuration.defaults,
            obj=configuration,
            standalone_mode=False,
        )
        return int(code or ExitCode.DONE)
    except SystemExit as end:
        return int(end.code or ExitCode.DONE)
    except TyperUsageError as error:
        return _failed(usage_error(error, words), words)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except EntangleError as error:
        return _failed(error, words)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            return _unexpected(error, words)
        return _failed(
            UnfinishedError(
                f"standard output or standard error: {error.strerror}",
                "room for what is printed",
                "make room, or send it elsewhere",
            ),
            words,
        )
    except MemoryError:
        return _failed(out_of_memory(), words)
    except BaseException as error:  # a panic in a library's Rust is no Exception
        return _unexpected(error, words)


def _working_directory() -> Path | None:
    """None where it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _options(commands: Any) -> dict[str, dict[str, Option]]:
    """Every command's options."""
    return {
        command: {
            word.removeprefix("--"): Option(parameter.name, parameter.multiple)
            for parameter in found.params
            for word in parameter.opts
            if parameter.param_type_name == "option" and word.startswith("--")
        }
        for command, found in commands.commands.items()
    }


def _unexpected(error: BaseException, words: Sequence[str]) -> ExitCode:
    if is_out_of_memory(error):
        return _failed(out_of_memory(), words)
    return _failed(EntangleError(*unexpected(error)), words)


def _failed(error: EntangleError, words: Sequence[str]) -> ExitCode:
    more = "" if error.topic is None else f" (entangle explain {error.topic})"
    _show(f"error: {error}{more}", words)
    return error.exit_code


def _show(message: str, words: Sequence[str]) -> None:
    """Print an error, if there is anywhere to print it: its exit code stands in any case."""
    from entangle_cli.report.escape import for_terminal

    with suppress(OSError, ValueError):
        if "--debug" in words:
            traceback.print_exc()
        print("\n".join(for_terminal(line) for line in message.split("\n")), file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    # Nothing is told to anyone: read by the hub's libraries when they are loaded.
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        # Batches have many shapes. Without this, a GPU's memory is lost to gaps between blocks.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if hasattr(signal, "SIGPIPE"):
        # A reader that goes away ends us as it ends other tools; Typer would exit with 1, a failed gate's code.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        code = run()
    except KeyboardInterrupt:  # another one, while the first was seen to
        code = ExitCode.INTERRUPTED
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is done; a late one would only spoil the exit code
    if not flush_streams() and code == ExitCode.DONE:
        code = ExitCode.UNFINISHED
    sys.exit(code)
