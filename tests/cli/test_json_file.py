"""Allowed targets of `--json`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

import pytest

from entangle_cli.cli.json_file import refuse_unwritable, write_file
from entangle_cli.errors import UnfinishedError, UsageError


def document(stream: TextIO) -> None:
    stream.write("{}\n")


def full(stream: TextIO) -> None:
    stream.write("{")
    raise OSError(28, "No space left on device")


def test_a_file_is_written_whole_and_alone(tmp_path: Path) -> None:
    path, neighbour = tmp_path / "a.json", tmp_path / "a.json.tmp"
    neighbour.write_text("somebody's")
    write_file(path, document)
    assert path.read_text() == "{}\n"
    assert neighbour.read_text() == "somebody's"
    assert sorted(tmp_path.iterdir()) == [path, neighbour]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_existing_files_survive_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(UnfinishedError, match="No space left"):
        write_file(path, full)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "a.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    write_file(link, document)
    assert link.is_symlink()
    assert target.read_text() == "{}\n"


def test_a_pipe_is_written_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_file(path, document)
    assert os.read(reader, 10) == b"{}\n"
    os.close(reader)
    assert path.is_fifo()


def test_folders_and_the_data_itself_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("{}")
    for path, match in (
        (tmp_path, "a folder"),
        (tmp_path / "no" / "a.json", "no such folder"),
        (data, "would change what is read"),
    ):
        with pytest.raises(UsageError, match=match):
            refuse_unwritable(path, data)
    refuse_unwritable(None, data)
    refuse_unwritable(tmp_path / "new.json", data, None)
