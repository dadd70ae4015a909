"""A bot with a conversation for each user, as one would put it behind a chat service.

    python bot.py model.onnx --port 7000
    printf 'anna: The old cat\nben: A dog\n' | nc localhost 7000

In place of a chat service, a port takes lines ``USER: message`` and answers ``USER: reply``. ``Bot`` is what
one would use with discord.py or its like: ``await bot.reply(user, message)`` in the handler of messages.

Everything is bounded: texts drawn at once, users remembered, and the length of messages and of replies.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import OrderedDict

from charrnn_runtime import CharrnnError, Conversation, Sampler

MOST_USERS = 1000  # a state has some kilobytes; the user who has been silent longest is forgotten
MOST_TEXTS = 4  # drawn at once; others wait
MOST_CHARACTERS = 500  # of a message, and of a reply


class Bot:
    """Continues what its users say: each has a conversation, which remembers all that was said in it."""

    def __init__(self, sampler: Sampler, *, temperature: float = 0.8, most_users: int = MOST_USERS) -> None:
        self._sampler = sampler
        self._temperature = temperature
        self._users: OrderedDict[str, tuple[Conversation, asyncio.Lock]] = OrderedDict()
        self._most_users = most_users
        self._room = asyncio.Semaphore(MOST_TEXTS)

    async def reply(self, user: str, message: str) -> str:
        """The model's continuation of this user's conversation, up to the end of the line."""
        if user not in self._users:
            self._users[user] = (self._sampler.start(temperature=self._temperature), asyncio.Lock())
        self._users.move_to_end(user)
        while len(self._users) > self._most_users:
            self._users.popitem(last=False)
        conversation, lock = self._users[user]
        async with lock, self._room:  # a conversation answers one message after the other
            return await asyncio.to_thread(self._draw, conversation, message[:MOST_CHARACTERS])

    def _draw(self, conversation: Conversation, message: str) -> str:
        conversation.feed(message, unknown="skip")  # the text that comes from a user may hold any character
        return conversation.sample(MOST_CHARACTERS, stop="\n")


async def serve(bot: Bot, port: int) -> asyncio.Server:
    """Answers lines on a port of this machine."""

    async def answer(user: str, message: str, writer: asyncio.StreamWriter) -> None:
        try:
            text = await bot.reply(user, message)
        except CharrnnError as error:
            text = f"({error})"
        writer.write(f"{user}: {text}\n".encode())
        await writer.drain()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                user, _, message = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
                task = asyncio.create_task(answer(user, message, writer))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                if len(waiting) >= 2 * MOST_TEXTS:  # do not read on while so many wait
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*waiting)
        except (ValueError, ConnectionError):  # a line that is too long, or a client that is gone
            pass
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", port, limit=8 * MOST_CHARACTERS)


async def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=7000)
    args = parser.parse_args()
    server = await serve(Bot(Sampler(args.model)), args.port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
