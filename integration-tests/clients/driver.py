"""What the Python clients have in common: commands on stdin, events on stdout."""

import asyncio
import json
import sys


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def wire(model):
    """A result in the protocol's own form."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


async def commands():
    """The commands, one a line."""
    # Tool arguments may be large.
    reader = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def drive(session):
    """Does what the test asks for, calls side by side, until there is no more.

    `session` has `tools()`, `read(uri)`, `call(tool, arguments, on_progress)` and
    `cancel(task, id)`.
    """
    calls = {}

    async def guarded(work, **fields):
        try:
            await work
        except asyncio.CancelledError:
            tell("cancelled", **fields)
        except Exception as error:
            tell("failed", error=f"{type(error).__name__}: {error}", **fields)

    async def tools():
        tell("tools", tools=[wire(tool) for tool in await session.tools()])

    async def read(uri):
        tell("contents", contents=wire(await session.read(uri))["contents"])

    async def call(id, tool, arguments, progress):
        async def on_progress(progress, total=None, message=None):
            tell("progress", id=id, progress=progress, message=message)

        result = await session.call(tool, arguments, on_progress if progress else None)
        tell("result", id=id, result=wire(result))

    async for command in commands():
        match command.pop("op"):
            case "tools":
                await guarded(tools())
            case "read":
                await guarded(read(command["uri"]))
            case "call":
                id = command["id"]
                work = call(id, command["tool"], command["arguments"], command.get("progress"))
                calls[id] = asyncio.create_task(guarded(work, id=id))
            case "cancel":
                await session.cancel(calls[command["id"]], command["id"])
    for task in calls.values():
        task.cancel()
    await asyncio.gather(*calls.values(), return_exceptions=True)
