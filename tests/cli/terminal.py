"""The command on a real pseudo-terminal, which answers what a terminal of some kind would."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

# What terminals say they are: 4 among the attributes is Sixel.
ATTRIBUTES = {"kitty": b"\x1b[?62;c", "sixel": b"\x1b[?62;4;22c", "blocks": b"\x1b[?62;22c", "mute": b""}
CELL = (10, 20)  # pixels
_ASKED = re.compile(rb"\x1b\[c|\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\")
START = "from curate.cli.main import main; main()"
# textual_image waits a tenth of a second for each answer; on a busy machine those that come may take longer.
_COME = {"kitty": ("\x1b[?", "\x1b_G"), "sixel": ("\x1b[?",), "blocks": ("\x1b[?",), "mute": ()}
_PATIENT = """
from textual_image import _terminal
asked = _terminal.capture_terminal_response
_terminal.capture_terminal_response = lambda start_marker, end_marker, timeout: asked(
    start_marker, end_marker, None if start_marker in {come} else timeout
)
"""


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
    code = f"{_PATIENT.format(come=_COME[kind])}\n{start}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
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
    while True:
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
    return process.wait(), sent.decode()
