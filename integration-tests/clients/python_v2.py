"""The official Python SDK 2.x: `python_v2.py MODE COMMAND ARG…` starts the server, and
`python_v2.py MODE URL KEY` connects to it.

The mode is the library's: `legacy` speaks by `initialize`, `auto` finds out what the server speaks.
"""

import asyncio
import os
import sys

import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError
from mcp.shared._httpx_utils import create_mcp_http_client

from driver import drive, tell


class Session:
    def __init__(self, client):
        self.client = client

    async def tools(self):
        # Past the library's own cache: what counts is what the server says.
        return (await self.client.list_tools(cache_mode="refresh")).tools

    async def read(self, uri):
        return await self.client.read_resource(uri)

    async def call(self, tool, arguments, on_progress):
        return await self.client.call_tool(tool, arguments, progress_callback=on_progress)

    async def cancel(self, task, id):
        task.cancel()


async def listen(client, listening):
    """Passes news on where they come by subscription."""
    try:
        async with client.listen(tools_list_changed=True) as subscription:
            listening.set()
            async for _ in subscription:
                tell("tools_changed")
    except ListenNotSupportedError:
        listening.set()


async def main():
    mode, command, *args = sys.argv[1:]
    if command.startswith("http://"):
        http = create_mcp_http_client(headers={"Authorization": f"Bearer {args[0]}"})
        server = streamable_http_client(command, http_client=http)
    else:
        server = StdioServerParameters(command=command, args=args, env=dict(os.environ))

    async def on_message(message):
        if isinstance(message, types.ToolListChangedNotification):
            tell("tools_changed")

    async with Client(server, mode=mode, message_handler=on_message) as client:
        listening = asyncio.Event()
        listener = asyncio.create_task(listen(client, listening))
        await listening.wait()
        tell("ready", protocol=client.protocol_version, server=client.server_info.name)
        await drive(Session(client))
        listener.cancel()


asyncio.run(main())
