"""FastMCP's client: `fastmcp_v4.py COMMAND ARG…` starts the server, and `fastmcp_v4.py URL KEY`
connects to it."""

import asyncio
import os
import sys

import mcp_types as types
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp.client.subscriptions import listen

from driver import drive, tell


class Session:
    def __init__(self, client):
        self.client = client

    async def tools(self):
        return await self.client.list_tools()

    async def read(self, uri):
        return await self.client.read_resource_mcp(uri)

    async def call(self, tool, arguments, on_progress):
        return await self.client.call_tool_mcp(tool, arguments, progress_handler=on_progress)

    async def cancel(self, task, id):
        task.cancel()


async def main():
    command, *args = sys.argv[1:]
    if command.startswith("http://"):
        headers = {"Authorization": f"Bearer {args[0]}"}
        server = StreamableHttpTransport(command, headers=headers)
    else:
        server = StdioTransport(command, args, env=dict(os.environ), keep_alive=False)

    async def on_message(message):
        if isinstance(message, types.ToolListChangedNotification):
            tell("tools_changed")

    async def subscribe(client, listening):
        async with listen(client.session, tools_list_changed=True) as subscription:
            listening.set()
            async for _ in subscription:
                tell("tools_changed")

    async with Client(server, message_handler=on_message) as client:
        listening = asyncio.Event()
        listener = asyncio.create_task(subscribe(client, listening))
        await listening.wait()
        tell("ready", protocol=client.protocol_version, server=client.server_info.name)
        await drive(Session(client))
        listener.cancel()


asyncio.run(main())
