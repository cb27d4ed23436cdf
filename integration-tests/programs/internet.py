"""A fake internet, in a network and a mount namespace of its own: `internet.rs` starts it there.

Every address is this machine's (a local route to everything), so that whatever a program connects to
arrives here: at a server that listens on the port, or at the listener of packets, which sees all.
What happens is told on standard output, a JSON object a line. The end of standard input is the end.
"""

import ctypes
import http
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

DNS_ADDRESS = "9.9.9.9"
HTTP_PORTS = (80, 8080, 8081)
TLS_PORTS = (443, 8443)
ECHO_PORT = 7000  # sends back what it gets
SSH_PORT = 22  # speaks first
# A Unix socket without a file, which a network namespace has for itself.
ABSTRACT = "\0toolcell-test-internet"
PROXY_PORT = 3128
# By these ports of one address, `sites.mjs` serves.
WEBSITES = "151.101.1.1"
WEBSITES_PORTS = {80: 18080, 443: 18443}
# Served at one address only, so that the other addresses of a name refuse.
ONE_ADDRESS = ("93.184.215.15", 9000)
HEAD_BYTES_MAX = 65536
TEXT_BYTES_MAX = 1 << 20  # of a request's body
BLOCK = bytes(range(256)) * 1024  # 256 KiB
# A peer that stalls gives up in the end, should the test have forgotten it.
STALL_SECONDS = 120
DRIBBLE_SECONDS = 0.01

telling = threading.Lock()


def tell(**event):
    line = json.dumps(event) + "\n"
    with telling:
        sys.stdout.write(line)
        sys.stdout.flush()


def here(address):
    """An address as a person writes it: IPv4 connections arrive at sockets of IPv6 as mapped ones."""
    return address.removeprefix("::ffff:")


# The namespaces.


def prepare(directory):
    """Makes every address local, and the host's files those of the test."""
    for command in (
        "link set lo up",
        "route add local 0.0.0.0/0 dev lo",
        "-6 route add local ::/0 dev lo",
        # A source for connections by IPv6, which loopback's own address is not.
        "-6 address add 2606:4700::2/128 dev lo nodad",
    ):
        subprocess.run(["/bin/ip", *command.split()], check=True)
    for file in ("resolv.conf", "hosts"):
        subprocess.run(["mount", "--bind", f"{directory}/{file}", f"/etc/{file}"], check=True)
    # Programs trust the test's authority as they trust the system's.
    subprocess.run(["mount", "--bind", f"{directory}/certs", "/etc/ssl/certs"], check=True)


# Packets.


def sniffer():
    """Sees each connection that is tried, each datagram and each ping, whoever listens for it."""
    load_byte, load_header, load_at = 0x30, 0xB1, 0x50
    jump, mask, give = 0x15, 0x54, 0x06
    program = [
        (load_byte, 0, 0, 0),
        (mask, 0, 0, 0xF0),
        (jump, 0, 7, 0x40),
        (load_byte, 0, 0, 9),  # IPv4: the protocol
        (jump, 0, 10, 6),
        (load_header, 0, 0, 0),
        (load_at, 0, 0, 13),  # TCP's flags
        (mask, 0, 0, 0x12),
        (jump, 6, 0, 0x02),  # SYN without ACK
        (give, 0, 0, 0),
        (load_byte, 0, 0, 6),  # IPv6: the next header
        (jump, 0, 3, 6),
        (load_byte, 0, 0, 53),
        (mask, 0, 0, 0x12),
        (jump, 0, 1, 0x02),
        (give, 0, 0, 128),
        (give, 0, 0, 0),
    ]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed)
    filter_ = struct.pack("HL", len(program), ctypes.addressof(buffer))
    found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    found.setsockopt(socket.SOL_SOCKET, 26, filter_)  # SO_ATTACH_FILTER
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    found.setblocking(False)
    return found


def tell_packets(packets):
    """Tells every packet that was sent up to now."""
    while True:
        try:
            data, (_, _, kind, _, _) = packets.recvfrom(256)
        except BlockingIOError:
            return
        # On loopback each is seen when it is sent and when it arrives.
        if kind != socket.PACKET_OUTGOING:
            continue
        if data[0] >> 4 == 4:
            protocol, to, rest = data[9], data[16:20], data[(data[0] & 15) * 4 :]
            family, echo = socket.AF_INET, 8
        else:
            protocol, to, rest = data[6], data[24:40], data[40:]
            family, echo = socket.AF_INET6, 128
        name = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(protocol, str(protocol))
        if name == "icmp" and rest[0] != echo:
            continue
        port = struct.unpack("!H", rest[2:4])[0] if name in ("tcp", "udp") else 0
        tell(event="packet", protocol=name, to=here(socket.inet_ntop(family, to)), port=port)


# Names.


class Zone:
    """What the name server knows: for each name, by type, the answers to one question after another."""

    def __init__(self, names):
        self.names = names
        self.asked = {}
        self.lock = threading.Lock()

    def find(self, name):
        if name in self.names:
            return self.names[name]
        parts = name.split(".")
        beneath = ("*." + ".".join(parts[n:]) for n in range(1, len(parts)))
        return next((self.names[suffix] for suffix in beneath if suffix in self.names), None)

    def answer(self, question):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
            at += 1 + question[at]
        name = ".".join(labels).lower()
        kind = struct.unpack("!H", question[at + 1 : at + 3])[0]
        asked = question[12 : at + 5]
        text = {1: "A", 28: "AAAA"}.get(kind, str(kind))
        tell(event="question", name=name, type=text)
        known = self.find(name)
        if known is None:
            return self.reply(question, 3, asked, [])
        if known.get("silent"):
            return None
        if known.get("fails"):
            return self.reply(question, 2, asked, [])
        with self.lock:
            turn = self.asked.get((name, text), 0)
            self.asked[name, text] = turn + 1
        turns = known.get(text, [])
        addresses = turns[min(turn, len(turns) - 1)] if turns else []
        family = socket.AF_INET6 if text == "AAAA" else socket.AF_INET
        return self.reply(question, 0, asked, [(kind, socket.inet_pton(family, a)) for a in addresses])

    @staticmethod
    def reply(question, code, asked, records):
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        # Each answer is for one question: nothing may be kept.
        body = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data for kind, data in records
        )
        return head + asked + body


def serve_names(zone):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((DNS_ADDRESS, 53))

    def datagrams():
        while True:
            question, client = udp.recvfrom(4096)
            reply = zone.answer(question)
            if reply:
                udp.sendto(reply, client)

    def stream(client, _):
        while len(head := client.recv(2, socket.MSG_WAITALL)) == 2:
            question = client.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL)
            reply = zone.answer(question)
            if reply:
                client.sendall(struct.pack("!H", len(reply)) + reply)

    threading.Thread(target=datagrams, daemon=True).start()
    listen(53, stream, DNS_ADDRESS)


# Connections.


def listen(port, serve, address="::"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind((address, port))
    server.listen(1024)

    def one(client, local):
        with client:
            try:
                if local == WEBSITES and port in WEBSITES_PORTS:
                    join(client, ("127.0.0.1", WEBSITES_PORTS[port]))
                else:
                    serve(client, local)
            except (OSError, ssl.SSLError) as error:
                tell(event="error", port=port, local=local, error=repr(error))

    def accept():
        while True:
            client, _ = server.accept()
            local = here(client.getsockname()[0])
            tell(event="connection", port=port, local=local)
            threading.Thread(target=one, args=(client, local), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def join(client, address, first=b""):
    """Passes everything on to a server, and back."""

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    with socket.create_connection(address) as server:
        back = threading.Thread(target=pump, args=(server, client), daemon=True)
        back.start()
        server.sendall(first)
        pump(client, server)
        back.join()


def echo(client, local):
    """Sends back what it gets, and says how much that was when the other side has finished."""
    got = 0
    while data := client.recv(65536):
        got += len(data)
        client.sendall(data)
    client.sendall(f"<{got}>".encode())
    tell(event="echo", local=local, bytes=got)


def ssh(client, local):
    client.sendall(b"SSH-2.0-fake\r\n")
    tell(event="banner", local=local, answer=client.recv(256).decode("latin-1"))


class Http:
    """One connection of HTTP/1, over TLS or not."""

    def __init__(self, client, port, local, sni=None, alpn=None):
        self.client = client
        self.about = {"port": port, "local": local, "sni": sni, "alpn": alpn}
        self.rest = b""

    def more(self):
        data = self.client.recv(262144)
        self.rest += data
        return bool(data)

    def line(self):
        while b"\n" not in self.rest:
            if len(self.rest) > HEAD_BYTES_MAX or not self.more():
                return None
        line, _, self.rest = self.rest.partition(b"\n")
        return line.rstrip(b"\r").decode("latin-1")

    def skip(self, length):
        """Reads so many bytes; returns how many there were."""
        got = min(length, len(self.rest))
        self.keep(self.rest[:got])
        self.rest = self.rest[got:]
        while got < length:
            data = self.client.recv(min(length - got, 1 << 20))
            if not data:
                break
            self.keep(data)
            got += len(data)
        return got

    def keep(self, data):
        self.text += data[: TEXT_BYTES_MAX - len(self.text)]

    def body(self, fields):
        self.text = b""
        if "chunked" in fields.get("transfer-encoding", ""):
            got = 0
            while (size := int((self.line() or "0").split(";")[0] or "0", 16)) > 0:
                got += self.skip(size)
                self.line()
            while self.line():
                pass
            return got
        return self.skip(int(fields.get("content-length", 0)))

    def serve(self):
        while request := self.line():
            method, target, *_ = request.split(" ") + [""]
            fields = {}
            while field := self.line():
                name, _, value = field.partition(":")
                fields[name.strip().lower()] = value.strip()
            if fields.get("expect") == "100-continue":
                self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            seen = {"method": method, "target": target, "host": fields.get("host"), **self.about}
            # Before the body, which may never end.
            sent = {"agent": fields.get("user-agent"), "authorization": fields.get("authorization")}
            tell(event="request", **sent, **seen)
            seen["body"] = 0 if target == "/leaves" else self.body(fields)  # what is left comes next
            seen["fields"] = fields
            path = target.split("://")[-1].partition("/")[2] if "://" in target else target[1:]
            if not self.answer(path.split("/"), seen) or fields.get("connection") == "close":
                return

    def head(self, status, *fields):
        phrase = http.HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {phrase}", *fields, "", ""]
        self.client.sendall("\r\n".join(lines).encode())

    def answer(self, path, seen):
        """Answers one request; false if the connection ends with it."""
        if known := self.site(seen):
            return known == "stays"
        size = int(path[1]) if len(path) > 1 and path[1].isdigit() else 0
        match path[0]:
            case "bytes":
                self.head(200, f"Content-Length: {size}")
                self.blocks(size, lambda block: self.client.sendall(block))
            case "chunked":
                self.head(200, "Transfer-Encoding: chunked")
                self.blocks(size, lambda b: self.client.sendall(b"%x\r\n%b\r\n" % (len(b), b)))
                self.client.sendall(b"0\r\n\r\n")
            case "dribble":
                self.head(200, f"Content-Length: {size}")
                for _ in range(size):
                    self.client.sendall(b".")
                    time.sleep(DRIBBLE_SECONDS)
            case "reset":
                self.head(200, "Content-Length: 1000000")
                linger = struct.pack("ii", 1, 0)
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return False
            case "half":
                # Finishes at once, and still reads what comes.
                self.head(200, "Connection: close")
                self.client.sendall(b"finished")
                self.client.shutdown(socket.SHUT_WR)
                got = 0
                while data := self.client.recv(65536):
                    got += len(data)
                tell(event="after", bytes=got)
                return False
            case "stall":
                self.client.settimeout(STALL_SECONDS)
                tell(event="left", bytes=len(self.client.recv(1)))
                return False
            case "events":
                # The second event comes when the client has seen the first, and says so.
                self.head(200, "Content-Type: text/event-stream", "Connection: close")
                self.client.sendall(b"data: first\n\n")
                self.more()
                self.client.sendall(b"data: second\n\n")
                return False
            case "v1":
                self.chat(seen)
            case "echo":
                return tell(event="echoed", text=self.text.decode("latin-1"))
            case "redirect":
                self.head(302, f"Location: http://{'/'.join(path[1:])}", "Content-Length: 0")
            case _:
                text = json.dumps(seen).encode()
                self.head(200, "Content-Type: application/json", f"Content-Length: {len(text)}")
                if seen["method"] != "HEAD":
                    self.client.sendall(text)
        return True

    def site(self, seen):
        """Answers from what the test laid down for the host, if it did (`sites.rs`)."""
        host = (seen["host"] or "").partition(":")[0]
        path, _, query = seen["target"].partition("?")
        file = f"{SITES}/{host}/" + urllib.parse.quote(seen["target"], safe="")
        if os.path.exists(file):
            with open(file, "rb") as answer:
                self.client.sendall(answer.read())
            # The head may not say how long the body is.
            return "ends"
        if not os.path.isdir(f"{SITES}/{host}"):
            return None
        if not os.path.isdir(f"{SITES}/{host}/repositories"):
            self.head(404, "Content-Length: 0")
            return "stays"
        # RFC 3875, as far as Git's own program needs it.
        environment = {
            "GIT_PROJECT_ROOT": f"{SITES}/{host}/repositories",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": seen["fields"].get("git-protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH": os.environ["PATH"],
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": seen["method"],
            "CONTENT_TYPE": seen["fields"].get("content-type", ""),
            "HTTP_CONTENT_ENCODING": seen["fields"].get("content-encoding", ""),
        }
        program = ["/usr/bin/git", "http-backend"]
        made = subprocess.run(program, env=environment, input=self.text, stdout=subprocess.PIPE)
        head, _, body = made.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n"))
        status = int(fields.pop("Status", "200").split()[0])
        self.head(status, *map(": ".join, fields.items()), f"Content-Length: {len(body)}")
        self.client.sendall(body)
        return "stays"

    def chat(self, seen):
        """Answers as an endpoint of chats does: with the last message, and whom it was meant for."""
        asked = json.loads(self.text or b"{}")
        tell(event="chat", target=seen["target"], asked=asked)
        if seen["fields"].get("authorization") is None:
            status, told = 401, {"error": {"message": "no key"}}
        else:
            messages = asked.get("messages") or [{"content": ""}]
            content = f"{asked.get('model')} says {messages[-1]['content']}"
            message = {"role": "assistant", "content": content}
            status, told = 200, {"choices": [{"index": 0, "message": message}]}
        text = json.dumps(told).encode()
        self.head(status, "Content-Type: application/json", f"Content-Length: {len(text)}")
        self.client.sendall(text)

    @staticmethod
    def blocks(size, send):
        while size > 0:
            send(BLOCK[:size])
            size -= min(size, len(BLOCK))


def serve_http2(client, about):
    """Answers every request with an empty head and a body that says `h2` (RFC 9113)."""

    def frame(kind, flags, stream, payload=b""):
        head = struct.pack("!IBBI", len(payload), kind, flags, stream)[1:]
        client.sendall(head + payload)

    def read(length):
        data = b""
        while len(data) < length:
            part = client.recv(length - len(data))
            if not part:
                raise ConnectionError("the client has gone")
            data += part
        return data

    read(24)  # the preface
    frame(4, 0, 0)
    while True:
        length, kind, flags, stream = struct.unpack("!IBBI", b"\0" + read(9))
        payload = read(length)
        if kind == 4 and not flags & 1:
            frame(4, 1, 0)
        elif kind == 6 and not flags & 1:
            frame(6, 1, 0, payload)
        elif kind == 1:
            tell(event="request", method="?", target="?", host=None, **about)
            frame(1, 4, stream, b"\x88")  # `:status: 200`, from HPACK's static table
            frame(0, 1, stream, b"h2")
        elif kind == 7:
            return


def tls(directory):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/server.pem", f"{directory}/server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    # What a test lays down for a host is served by HTTP/1.
    of_site = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_site.load_cert_chain(f"{directory}/server.pem", f"{directory}/server.key")
    of_site.set_alpn_protocols(["http/1.1"])

    def named(connection, name, _):
        connection.named = name
        if os.path.isdir(f"{SITES}/{name}"):
            connection.context = of_site
        # A test may have a certificate of its own for a name, with its key.
        own = f"{directory}/{name}.pem"
        if name and os.path.exists(own):
            other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            other.load_cert_chain(own)
            connection.context = other

    context.sni_callback = named

    def serve(port):
        def one(client, local):
            with context.wrap_socket(client, server_side=True, suppress_ragged_eofs=True) as secure:
                about = {"sni": getattr(secure, "named", None), "alpn": secure.selected_alpn_protocol()}
                tell(event="tls", port=port, local=local, **about)
                if about["alpn"] == "h2":
                    serve_http2(secure, {"port": port, "local": local, **about})
                else:
                    Http(secure, port, local, **about).serve()

        listen(port, one)

    return serve


def plain(port, address="::"):
    prior = lambda client: client.recv(4, socket.MSG_PEEK) == b"PRI "  # RFC 9113, section 3.3
    http2 = lambda client: serve_http2(client, {"port": port, "prior": True})
    listen(port, lambda c, local: http2(c) if prior(c) else Http(c, port, local).serve(), address)


def proxy(zone):
    """An HTTP proxy that connects (RFC 9110, section 9.3.6)."""

    def one(client, local):
        reader = Http(client, PROXY_PORT, local)
        method, target, _ = (reader.line() or "? ? ?").split(" ")
        fields = []
        while field := reader.line():
            fields.append(field)
        tell(event="proxied", method=method, target=target, fields=fields)
        host, _, port = target.rpartition(":")
        known = zone.find(host)
        if method != "CONNECT" or known is None:
            reader.head(502, "Content-Length: 0")
            return
        reader.head(200)
        join(client, (known["A"][0][0], int(port)), reader.rest)

    listen(PROXY_PORT, one)


def listen_abstractly():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(ABSTRACT)
    server.listen(16)

    def accept():
        while True:
            server.accept()[0].close()
            tell(event="abstract")

    threading.Thread(target=accept, daemon=True).start()


def main(directory):
    global SITES
    SITES = f"{directory}/sites"
    prepare(directory)
    with open(f"{directory}/zone.json", encoding="utf-8") as file:
        zone = Zone(json.load(file))
    threading.stack_size(512 * 1024)
    serve_names(zone)
    for port in HTTP_PORTS:
        plain(port)
    secure = tls(directory)
    for port in TLS_PORTS:
        secure(port)
    listen(ECHO_PORT, echo)
    listen(SSH_PORT, ssh)
    proxy(zone)
    listen_abstractly()
    plain(ONE_ADDRESS[1], ONE_ADDRESS[0])
    packets = sniffer()
    tell(event="ready")
    # Each line asks for what was sent up to now, and is answered after it.
    for line in sys.stdin:
        tell_packets(packets)
        tell(event="told", what=line.strip())
    os._exit(0)


main(sys.argv[1])
