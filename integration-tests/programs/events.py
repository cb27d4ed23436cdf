"""asyncio: tasks, threads, processes and a Unix socket server with many clients."""

import asyncio
import sys

CLIENTS = 50


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def client(path, number):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"client {number}\n".encode())
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def main():
    path = "/tmp/echo.sock"
    server = await asyncio.start_unix_server(echo, path)
    answers = await asyncio.gather(*(client(path, number) for number in range(CLIENTS)))
    assert answers == [f"CLIENT {number}\n" for number in range(CLIENTS)]
    server.close()

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input()[::-1])",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"desrever\n")
    assert (out, process.returncode) == (b"reversed\n", 0)

    assert await asyncio.to_thread(sum, range(10)) == 45
    try:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(60)
    except TimeoutError:
        print("unbroken")


asyncio.run(main())
