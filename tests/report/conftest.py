"""Command lines, as the tests of the commands have them."""

from tests.cli.conftest import entangle, rows_file

__all__ = ["entangle", "rows_file"]
