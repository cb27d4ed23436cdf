"""What tests of the network try, in cells and outside: each attempt by name, with its time."""

import errno
import json
import socket
import ssl
import struct
import time

# Longest wait within an attempt. What is denied is denied at once; this only bounds a failing test.
WAIT_SECONDS = 10
said = {}
socket.setdefaulttimeout(WAIT_SECONDS)


def attempt(name, what, /, *arguments, **options):
    """Tries something, and keeps what came of it: its text, or the name of its error."""
    begun = time.monotonic()
    try:
        answer = what(*arguments, **options)
    except socket.gaierror as error:
        names = {value: key for key, value in vars(socket).items() if key.startswith("EAI_")}
        answer = names.get(error.errno, repr(error))
    except ssl.SSLError as error:
        answer = error.reason or type(error).__name__
    except OSError as error:
        answer = errno.errorcode.get(error.errno, repr(error))
    except Exception as error:  # a test sees by its name what else it was
        answer = repr(error)
    millis = (time.monotonic() - begun) * 1000
    said[name] = {"answer": "" if answer is None else str(answer), "millis": round(millis, 1)}


def say():
    print(json.dumps(said))


def address(host):
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]


def connect(host, port):
    with socket.create_connection((host, port)):
        return "connected"


def talk(host, port, data, finish=False):
    """Connects, sends, and returns all that comes back; a reset after an answer is part of it."""
    with socket.create_connection((host, port)) as connection:
        for part in [data] if isinstance(data, bytes) else data:
            connection.sendall(part)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection):
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        if not got:
            raise
        got += b" then reset"
    return got.decode("latin-1")


def get(host, target="/", name=None, port=80):
    """The status line of a plain request."""
    request = f"GET {target} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n"
    answer = talk(host, port, request.encode("latin-1"))
    return answer.split("\r\n")[0] or "closed without an answer"


def hello(name):
    """A ClientHello for a name, as this machine's TLS writes it."""
    context = ssl.create_default_context()
    if name is None:
        context.check_hostname = False
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(coming, going, server_hostname=name)
    try:
        secure.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return going.read()


def secured(host, name, port=443):
    """A request over TLS that names a server, to whatever host."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    with socket.create_connection((host, port)) as connection:
        with context.wrap_socket(connection, server_hostname=name) as secure:
            request = f"GET / HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n"
            secure.sendall(request.encode())
            return read_all(secure).split("\r\n")[0]


def question(name, kind=1, labels=None):
    """A DNS question; labels may be what no name has."""
    labels = labels or [label.encode() for label in name.split(".")]
    encoded = b"".join(bytes([len(label)]) + label for label in labels)
    return b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0" + encoded + b"\0" + struct.pack("!HH", kind, 1)


CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


def ask(server, message, stream=False):
    """Asks a name server: the code, and how many answers there are."""
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, kind) as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.connect((server, 53))
        if stream:
            connection.sendall(struct.pack("!H", len(message)) + message)
            length = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
            answer = connection.recv(length, socket.MSG_WAITALL)
        else:
            connection.send(message)
            answer = connection.recv(4096)
    count = struct.unpack("!H", answer[6:8])[0]
    return f"{CODES.get(answer[3] & 15)} {count}"


def open_socket(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()
    return "opened"


def send(host, port):
    """Sends a datagram and waits for an answer, or for the news that nobody takes it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.connect((host, port))
        connection.send(b"\xc0\0\0\0\1" + b"\0" * 1200)
        return connection.recv(1500)


def abstract(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect("\0" + name)
        return "connected"


def curl(*arguments):
    """What curl prints, or its exit status and what it complains of."""
    import subprocess

    command = ["/usr/bin/curl", "-sS", "--max-time", str(WAIT_SECONDS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else f"curl {done.returncode}: {done.stderr.strip()}"


def in_pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def in_records(data, size):
    """The same TLS handshake message in records of so many bytes."""
    return b"".join(
        data[:3] + struct.pack("!H", len(part)) + part for part in in_pieces(data[5:], size)
    )


def greet(host, data, port=443):
    """Sends a ClientHello, in one piece or several; says whether a server answers with its own."""
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in [data] if isinstance(data, bytes) else data:
            connection.sendall(part)
        return "answered" if connection.recv(1) == b"\x16" else "closed"
