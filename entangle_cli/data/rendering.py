"""Renders untrusted chat templates in a separate process with limits on time and memory.

A template is a program. jinja2's sandbox blocks harmful actions, but not endless loops or unlimited memory use.
"""

from __future__ import annotations

import atexit
import json
import pickle
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from entangle_cli.data.rendering_child import HEADER
from entangle_cli.errors import UnfinishedError

SECONDS = 30.0
"""Time limit per text. Common templates need milliseconds."""

START_SECONDS = 300.0

MEMORY_BYTES = 2**30
"""Memory limit, in addition to the memory that the process needs to start."""

MOST_DEATHS = 3
"""Number of process crashes before the template is refused."""


class TemplateTooLarge(Exception):
    """The rendered text is too long or needs too much memory."""


class TemplateUnusable(Exception):
    """A template takes too long, or crashes its process repeatedly."""


class TemplateRefusal(Exception):
    """A template raises an error."""


class _Renderer:
    """The rendering process. It starts on first use and restarts after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def render(self, request: dict[str, Any], max_characters: int, seconds: float) -> tuple[list[str], list[Any]]:
        """Call transformers' `render_jinja_template` in the process.

        Raises:
            TemplateTooLarge: the text is too long or needs too much memory, or the process crashed.
            TemplateUnusable: the template takes too long, or the process crashed `MOST_DEATHS` times.
            TemplateRefusal: the template raises an error.
        """
        content = pickle.dumps((max_characters, request))
        process = self._running()
        try:
            assert process.stdin is not None
            process.stdin.write(HEADER.pack(len(content)) + content)
            process.stdin.flush()
            reply = json.loads(_frame_of(process, time.monotonic() + seconds))
        except (BrokenPipeError, EOFError) as error:
            self.stop()
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise TemplateUnusable("the chat template ends the process that renders it") from error
            raise TemplateTooLarge("the chat template ends the process that renders it") from error
        except TimeoutError as error:
            self.stop()
            raise TemplateUnusable(f"the chat template takes more than {seconds:g} seconds") from error
        except BaseException:
            self.stop()  # otherwise the next request would read the rest of this reply
            raise
        if "too_large" in reply:
            raise TemplateTooLarge(f"the chat template makes {reply['too_large']}")
        if "error" in reply:
            raise TemplateRefusal(reply["error"])
        return reply["texts"], reply["indices"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            child = Path(__file__).with_name("rendering_child.py")
            self._process = subprocess.Popen(
                # -P: do not import from the working directory.
                [sys.executable, "-P", str(child), str(MEMORY_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # only the parent handles Ctrl-C
            )
            self._wait_for_start(self._process)
        return self._process

    def _wait_for_start(self, process: subprocess.Popen[bytes]) -> None:
        try:
            _frame_of(process, time.monotonic() + START_SECONDS)
        except (EOFError, TimeoutError) as error:
            self.stop()
            raise UnfinishedError(
                "the process that renders chat templates does not start",
                "enough memory and time to import transformers once more",
                "close other programs, or raise ulimit -v",
            ) from error

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            self._process = None


def _frame_of(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Read the next frame from the process.

    Raises:
        TimeoutError: the deadline has passed.
        EOFError: the process ended.
    """
    content = b""
    wanted = HEADER.size
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        for is_header in (True, False):
            while len(content) < wanted:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                piece = process.stdout.read1(wanted - len(content))  # type: ignore[attr-defined]
                if not piece:
                    raise EOFError
                content += piece
            if is_header:
                wanted, content = HEADER.unpack(content)[0], b""
    return content


_renderer = _Renderer()
_lock = threading.Lock()
atexit.register(_renderer.stop)


@contextmanager
def isolated_templates(max_characters: int, seconds: float = SECONDS) -> Iterator[None]:
    """Make transformers' tokenizers render chat templates in the separate process inside the block.

    Args:
        max_characters: limit on the characters of a rendered text.
        seconds: time limit per text.
    Raises:
        TemplateTooLarge, TemplateUnusable, TemplateRefusal: rendering fails inside the block; see `_Renderer.render`.
    """
    import transformers.tokenization_utils_base as untyped

    module: Any = untyped

    def rendered(**request: Any) -> tuple[list[str], list[Any]]:
        return _renderer.render(request, max_characters, seconds)

    with _lock:
        original = module.render_jinja_template
        module.render_jinja_template = rendered
        try:
            yield
        finally:
            module.render_jinja_template = original
