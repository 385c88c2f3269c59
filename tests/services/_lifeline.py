"""Runs one service and ends it with its tests: `python _lifeline.py COMMAND...`.

The parent holds the other end of our standard input. However the parent ends, kill -9 included, that pipe closes, and
this process, the leader of a session of its own, ends its whole process group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

__all__: list[str] = []


def _die_with_the_parent() -> None:
    # Unbuffered: a thread inside a buffered read would hold its lock while the interpreter shuts down.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    # A handler, not SIG_IGN, which the service would inherit: we outlive SIGTERM to collect the service's exit status.
    signal.signal(signal.SIGTERM, lambda *_: None)
    service = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    return service.wait()


if __name__ == "__main__":
    sys.exit(main())
