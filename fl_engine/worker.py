"""The training worker: `python -m fl_engine.worker`, the only process of a node that loads torch.

It reads request frames (`fl_engine.frames`) from standard input and writes one response frame for each, in order, to
standard output; what may be asked is listed in `fl_engine.requests`. Stray prints go to standard error.

The worker ends when its standard input ends or its parent is gone, in the middle of training too: a reader thread
notices and exits the process. PR_SET_PDEATHSIG is deliberately not used: Linux sends it when the *thread* that started
the child ends, and an async node starts its worker from short-lived threads.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
from typing import IO, Final

from fl_engine.errors import FrameError
from fl_engine.frames import Frame, read_frame, write_frame

_PARENT_CHECK_S: Final = 1.0


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer frames from `source` on `sink` until the source ends; see the module docstring for how it ends."""
    waiting: queue.Queue[Frame] = queue.Queue(maxsize=1)
    threading.Thread(target=_read_requests, args=(source, waiting), daemon=True).start()
    # torch takes seconds to load; by now the reader would already notice a parent that is gone.
    from fl_engine.requests import Requests
    from fl_engine.training.sgd import pin_profile

    pin_profile()
    requests = Requests()
    while True:
        write_frame(sink, *requests.handle(*waiting.get()))


def _read_requests(source: IO[bytes], waiting: queue.Queue[Frame]) -> None:
    """Feed the queue; end the process at once when the input ends, is garbled, or the parent has changed."""
    parent = os.getppid()
    try:
        while True:
            while not select.select([source], [], [], _PARENT_CHECK_S)[0]:
                if os.getppid() != parent:
                    os._exit(0)
            frame = read_frame(source)
            if frame is None:
                os._exit(0)
            waiting.put(frame)
    except (FrameError, OSError) as fault:
        sys.stderr.write(f"training worker: {fault}\n")
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    """Keep the real standard output for frames, point prints at standard error, and serve."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Unbuffered: select() must see what a buffer would hide.
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    try:
        serve(source, sink)
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
