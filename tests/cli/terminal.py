"""The command on a real pseudo-terminal, which answers what a terminal of some kind would."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

# What terminals say they are: 4 among the attributes is Sixel.
ATTRIBUTES = {"kitty": b"\x1b[?62;c", "sixel": b"\x1b[?62;4;22c", "blocks": b"\x1b[?62;22c", "mute": b""}
CELL = (10, 20)  # pixels
_ASKED = re.compile(rb"\x1b\[c|\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\")
START = "from curate.cli.main import main; main()"


def on_terminal(
    kind: str,
    *arguments: object,
    columns: int = 100,
    lines: int = 60,
    cell: tuple[int, int] = CELL,
    start: str = START,
    **environment: str,
) -> tuple[int, str]:
    """The exit code, and all that the terminal was sent; its cells have so many pixels."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, columns * cell[0], lines * cell[1]))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CURATE_", "RAY_")) and k not in ("NO_COLOR",)}
    command = [sys.executable, "-c", start, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**clean, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
        preexec_fn=_takes_the_terminal,
    )
    os.close(slave)
    try:
        return _answered(process, master, kind)
    finally:
        process.kill()
        os.close(master)


def _takes_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _answered(process: subprocess.Popen[bytes], master: int, kind: str) -> tuple[int, str]:
    sent, answered = b"", 0
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            sent += os.read(master, 1 << 16)
        except OSError:  # nobody has the other end any more
            break
        for asked in _ASKED.finditer(sent, answered):
            answered = asked.end()
            if asked.group() == b"\x1b[c":
                os.write(master, ATTRIBUTES[kind])
            elif kind == "kitty":
                os.write(master, b"\x1b_Gi=1;OK\x1b\\")
    return process.wait(60), sent.decode()
