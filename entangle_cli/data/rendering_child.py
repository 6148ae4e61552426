"""Program of the process that renders chat templates; see `rendering`. It imports nothing from this package.

A frame is an eight-byte length followed by that many bytes. A request is a pickle of plain data from the parent. A
reply is JSON, because a template may have compromised this process.
"""

import json
import pickle
import resource
import struct
import sys
from pathlib import Path
from typing import IO, Any

HEADER = struct.Struct(">Q")


def limit_memory(num_bytes: int) -> None:
    """Limit this process to `num_bytes` beyond its current memory. Do nothing if its current memory is unknown."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        present = int(statistics.read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        set_already = [limit for limit in limits if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min([present + num_bytes, *set_already]), limits[1]))


def reply_to(request: dict[str, Any], max_characters: int) -> dict[str, Any]:
    """The texts and generation indices for a request, or the error."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered: Any = render_jinja_template(**request)
        texts, indices = rendered
    except MemoryError:
        return {"too_large": "more memory than the limit"}
    except BaseException as error:
        return {"error": str(error).strip() or type(error).__name__}
    longest = max((len(text) for text in texts), default=0)
    if longest > max_characters:
        return {"too_large": f"a text of {longest:,} characters; --max-row-bytes raises the limit"}
    return {"texts": texts, "indices": indices}


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read the next frame; None at the end."""
    header = stream.read(HEADER.size)
    return stream.read(int.from_bytes(header, "big")) if len(header) == HEADER.size else None


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Write a frame."""
    stream.write(HEADER.pack(len(content)) + content)
    stream.flush()


def serve(memory_bytes: int) -> None:
    """Send a start message, then answer requests until the input ends."""
    import transformers.utils.chat_template_utils  # noqa: F401  before the limit

    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    limit_memory(memory_bytes)
    write_frame(replies, b"ready")
    while (frame := read_frame(requests)) is not None:
        max_characters, request = pickle.loads(frame)
        try:
            content = json.dumps(reply_to(request, max_characters)).encode()
        except MemoryError:
            content = b'{"too_large": "more memory than the limit"}'
        write_frame(replies, content)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
