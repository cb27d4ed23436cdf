"""A terminal of the cell's own: its size, its line discipline, and Ctrl-C."""

import fcntl
import os
import pty
import struct
import termios

SCRIPT = """
trap 'echo caught; exit 7' INT
read go
tty
stty size
echo ready
while :; do sleep 0.1; done
"""

child, terminal = pty.fork()
if child == 0:
    os.execv("/bin/sh", ["sh", "-c", SCRIPT])
shown = b""


def read_until(end):
    global shown
    while end not in shown:
        shown += os.read(terminal, 4096)


fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
os.write(terminal, b"go\n")
read_until(b"ready\r\n")
os.write(terminal, b"\x03")
read_until(b"caught\r\n")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, shown
lines = shown.decode().split("\r\n")
assert any(line.startswith("/dev/pts/") for line in lines), lines
assert "24 80" in lines, lines
print("unbroken")
