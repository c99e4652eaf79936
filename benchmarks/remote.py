"""The near end of worker.py: a peer that runs in another process, and may end there."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKER = Path(__file__).resolve().parent / "worker.py"


class Absent(Exception):
    """A peer can't do this; says why."""


class Remote:
    """A worker of one kind, started when first asked and again after it has ended."""

    def __init__(self, kind: str, clock: str = "wall", command: list[str] | None = None):
        self.kind = kind
        self.command = command or [sys.executable, str(WORKER), kind, clock]
        self.process = None

    def load(self, work: dict, limit: float) -> None:
        """Builds the work. Raises Absent: it can't, ended, or took more than `limit` seconds."""
        if limit <= 0:
            raise Absent("no time left")
        self._ask({"load": work}, limit)

    def time(self, calls: int, limit: float = 60.0) -> float:
        """Seconds of so many calls. Raises Absent."""
        return self._ask({"time": calls}, limit)["seconds"]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout, self.log):
                stream.close()
            self.process = None

    def _start(self) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self.buffer = b""
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C is for the near end, which prints what it has
        )

    def _ask(self, message: dict, limit: float) -> dict:
        if self.process is None:
            self._start()
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(limit)
        except BrokenPipeError:
            line = b""
        except TimeoutError:
            self.close()
            raise Absent(f"took more than {limit:.0f} s") from None
        if not line:
            reason = self._end()
            self.close()
            raise Absent(reason)
        reply = json.loads(line)
        if "absent" in reply:
            raise Absent(reply["absent"])
        return reply

    def _line(self, limit: float) -> bytes:
        end, out = time.monotonic() + limit, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([out], [], [], max(end - time.monotonic(), 0.0))
            if not ready:
                raise TimeoutError
            part = os.read(out, 1 << 16)
            if not part:
                return b""
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def _end(self) -> str:
        """How the process ended."""
        code = self.process.wait()
        if code < 0:
            return f"its process ended by {signal.Signals(-code).name}"
        self.log.seek(0)
        last = self.log.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"its process ended with status {code}{': ' + last[0][:200] if last else ''}"
