"""An MCP server whose tool `wrong` does not hold its own output schema, and whose tool `right` does.

It shows that the clients check what servers send, so that a result that they take is a proof.
"""

import json
import sys

SCHEMA = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}
TOOLS = [
    {"name": name, "inputSchema": {"type": "object"}, "outputSchema": SCHEMA}
    for name in ("right", "wrong")
]
SERVER = {"name": "wrong", "version": "1"}
CAPABILITIES = {"tools": {}}


def answer(method, params):
    match method:
        case "initialize":
            return {
                "protocolVersion": params["protocolVersion"],
                "capabilities": CAPABILITIES,
                "serverInfo": SERVER,
            }
        case "server/discover":
            return {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": CAPABILITIES,
                "_meta": {"io.modelcontextprotocol/serverInfo": SERVER},
                "ttlMs": 0,
                "cacheScope": "private",
            }
        case "tools/list":
            return {
                "resultType": "complete",
                "tools": TOOLS,
                "ttlMs": 0,
                "cacheScope": "private",
            }
        case "tools/call":
            data = {"status": "exited"} if params["name"] == "right" else {"status": 7}
            return {
                "resultType": "complete",
                "content": [{"type": "text", "text": "done"}],
                "structuredContent": data,
            }


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    params = message.get("params", {})
    if message["method"] == "subscriptions/listen":
        reply = {
            "method": "notifications/subscriptions/acknowledged",
            "params": {
                "notifications": {},
                "_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]},
            },
        }
    else:
        result = answer(message["method"], params)
        reply = {"id": message["id"], "result": result}
        if result is None:
            error = {"code": -32601, "message": "no such method"}
            reply = {"id": message["id"], "error": error}
    print(json.dumps({"jsonrpc": "2.0", **reply}), flush=True)
