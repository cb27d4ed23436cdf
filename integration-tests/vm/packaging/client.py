"""A client of the service's socket: `client.py SOCKET list`, or `client.py SOCKET TOOL JSON [TIMES]`.

Prints the names of the tools, or for each of TIMES calls at once how it ended and what it wrote. An
answer that never comes, because the server went, is printed as `gone`.
"""

import http.client
import json
import socket
import sys
import threading

PATIENCE = 900  # seconds: some calls go on for as long as the test does


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


def post(path, message, session=None):
    connection = Connection(path)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
    }
    if session:
        headers["Mcp-Session-Id"] = session
    connection.request("POST", "/mcp", json.dumps(message), headers)
    answer = connection.getresponse()
    session = answer.getheader("Mcp-Session-Id") or session
    if "id" not in message:
        answer.read()
        return None, session
    if answer.status != 200:
        raise OSError(f"{answer.status} {answer.read().decode()}")
    if "event-stream" not in (answer.getheader("Content-Type") or ""):
        return json.loads(answer.read()), session
    for line in answer:
        if line.startswith(b"data:") and line[5:].strip():
            event = json.loads(line[5:])
            if event.get("id") == message["id"]:
                return event, session
    raise OSError("the answer ended without one")


def begin(path):
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    request = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
    _, session = post(path, request)
    post(path, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
    return session


def call(path, tool, arguments):
    try:
        session = begin(path)
        request = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }
        answer, _ = post(path, request, session)
        if "error" in answer:
            return f"error: {answer['error']['message']}"
        outcome = answer["result"]["structuredContent"]
        return f"{outcome['status']}: {outcome['stdout']['text'].strip()}"
    except (OSError, http.client.HTTPException) as error:
        return f"gone: {error}"


def main():
    path, what, *rest = sys.argv[1:]
    if what == "list":
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        answer, _ = post(path, request, begin(path))
        print(*(tool["name"] for tool in answer["result"]["tools"]))
        return
    arguments = json.loads(rest[0])
    times = int(rest[1]) if len(rest) > 1 else 1
    said = [None] * times

    def one(number):
        said[number] = call(path, what, arguments)
        print(said[number], flush=True)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
