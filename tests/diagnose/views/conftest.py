"""The command line fixtures of the command tests."""

from tests.cli.conftest import entangle, rows_file

__all__ = ["entangle", "rows_file"]
