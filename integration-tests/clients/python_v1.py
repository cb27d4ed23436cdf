"""The official Python SDK 1.x: `python_v1.py COMMAND ARG…` starts the server, and
`python_v1.py URL KEY` connects to it."""

import asyncio
import os
import sys

import mcp.types as types
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client

from driver import drive, tell


class Session:
    def __init__(self, session):
        self.session = session
        self.requests = {}

    async def tools(self):
        return (await self.session.list_tools()).tools

    async def read(self, uri):
        return await self.session.read_resource(uri)

    async def call(self, tool, arguments, on_progress):
        # The library takes the next number for the request, and nothing runs in between.
        self.requests[asyncio.current_task()] = self.session._request_id
        return await self.session.call_tool(tool, arguments, progress_callback=on_progress)

    async def cancel(self, task, id):
        # This generation leaves it to its user to tell the server.
        params = types.CancelledNotificationParams(requestId=self.requests[task], reason="test")
        notification = types.CancelledNotification(params=params)
        await self.session.send_notification(types.ClientNotification(notification))
        task.cancel()


async def main():
    command, *args = sys.argv[1:]
    if command.startswith("http://"):
        server = streamablehttp_client(command, headers={"Authorization": f"Bearer {args[0]}"})
    else:
        server = stdio_client(
            StdioServerParameters(command=command, args=args, env=dict(os.environ))
        )

    async def on_message(message):
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ToolListChangedNotification
        ):
            tell("tools_changed")

    async with server as (read, write, *_):
        async with ClientSession(read, write, message_handler=on_message) as session:
            ready = await session.initialize()
            tell("ready", protocol=ready.protocolVersion, server=ready.serverInfo.name)
            await drive(Session(session))


asyncio.run(main())
