"""The same JSON lines as pypool's, served side by side by a loop written by hand on asyncio streams."""

import asyncio
import json
import sys


async def echo(text):
    return {"text": text}


commands = {"echo": echo}


async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    tasks = set()

    async def serve(line):
        request = json.loads(line)
        result = await commands[request["command"]](**request["args"])
        answer = {"id": request["id"], "success": True, "result": result}
        writer.write(json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n")

    while True:
        line = await reader.readline()
        if not line:
            break
        task = loop.create_task(serve(line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


asyncio.run(main())
