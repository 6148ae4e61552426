"""The command line, for tests that compare with it."""

from tests.cli.conftest import entangle as entangle
