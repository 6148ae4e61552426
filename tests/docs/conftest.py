"""The command line, for tests that hold it beside something else."""

from tests.cli.conftest import entangle as entangle
