"""Drawing in processes of their own, since the renderer holds the interpreter's lock."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from featcache.report.figures.figure import Figure

_PROCESSES = 2
_COMMAND = (sys.executable, "-P", "-m", "featcache.report.figures.render")  # -P: no module of the working folder


class Renderers:
    """Draws figures while others are still being prepared; use it as a context manager.

    Without a second core, and where no process can be started or one ends, figures draw
    themselves when their picture is asked for.

    Args:
        formats: Of "png" and "svg"; a PNG is drawn only where it is among them.
    """

    def __init__(self, formats: Sequence[str]) -> None:
        self._png = "png" in formats
        self._threads: ThreadPoolExecutor | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._drawn: dict[Figure, Future[dict[str, str]]] = {}

    def __enter__(self) -> Self:
        count = min(_PROCESSES, os.cpu_count() or 1)
        pipe = subprocess.PIPE
        try:
            for _ in range(count if count > 1 else 0):
                self._processes.append(subprocess.Popen(_COMMAND, stdin=pipe, stdout=pipe))
                self._idle.put(self._processes[-1])
        except OSError:
            self._stop()
        if self._processes:
            self._threads = ThreadPoolExecutor(len(self._processes))
        return self

    def start(self, figure: Figure | None) -> None:
        """Begins to draw a figure; one that is begun already, or None, is left alone."""
        if figure is not None and self._threads is not None and figure not in self._drawn:
            self._drawn[figure] = self._threads.submit(self._draw, figure)

    def finish(self, figure: Figure) -> None:
        """Waits for the pictures of a figure that was begun, which `Figure.svg` and `Figure.png` then are."""
        if figure in self._drawn:
            pictures = self._drawn[figure].result()  # none from a process that ended: the figure draws itself
            if "svg" in pictures:
                figure.__dict__["svg"] = pictures["svg"]  # where cached_property looks
            if "png" in pictures:
                figure.__dict__["png"] = base64.b64decode(pictures["png"])

    def _draw(self, figure: Figure) -> dict[str, str]:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        request = {"drawing": figure.drawing, "spec": figure.printable_spec, "png": self._png}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            self._idle.put(process)
        return json.loads(answer) if answer else {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._stop()

    def _stop(self) -> None:
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):  # of one that ended before
                process.stdin.close()  # at which it ends
            process.stdout.close()
            process.wait()
        self._processes.clear()


def serve() -> None:
    """Draws what comes on standard input, a figure a line, until it is closed."""
    import vl_convert

    for line in sys.stdin.buffer:
        request: dict[str, Any] = json.loads(line)
        svg = request["drawing"] or vl_convert.vegalite_to_svg(request["spec"])
        pictures = {"svg": svg}
        if request["png"]:
            pictures["png"] = base64.b64encode(vl_convert.svg_to_png(svg, scale=2)).decode("ascii")
        sys.stdout.buffer.write(json.dumps(pictures).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
