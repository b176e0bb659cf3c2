"""An asyncio echo client: python echo_client.py ADDRESS PORT CONNECTIONS MAX_BYTES SEED.

Opens the connections at once, sends a random amount on each, checks that it comes back and that the end follows.
Prints the number of bytes; any difference ends it with a traceback.
"""

import asyncio
import random
import sys


async def converse(address: str, port: int, message: bytes) -> int:
    reader, writer = await asyncio.open_connection(address, port)

    async def send() -> None:
        for at in range(0, len(message), 16384):
            writer.write(message[at : at + 16384])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    answer = await reader.read(-1)
    await sending
    writer.close()
    await writer.wait_closed()
    if answer != message:
        raise AssertionError(f"sent {len(message)} bytes, got {len(answer)}, not the same")
    return len(answer)


async def main(address: str, port: int, connections: int, max_bytes: int, seed: int) -> None:
    numbers = random.Random(seed)
    messages = [numbers.randbytes(numbers.randint(0, max_bytes)) for _ in range(connections)]
    lengths = await asyncio.gather(*(converse(address, port, message) for message in messages))
    print(sum(lengths))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
