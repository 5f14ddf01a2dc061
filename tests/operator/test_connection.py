from __future__ import annotations

import asyncio

from avatar_operator.connection import Room
from avatar_operator.core.flow import MOST


class Guests:
    """Tasks that take a place each, and leave it when they are told."""

    def __init__(self) -> None:
        self.room = Room()
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *numbers: int) -> None:
        for number in numbers:
            self.leave[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._stay(number))
        await turns()

    async def go(self, number: int) -> None:
        self.leave[number].set()
        await self.tasks[number]
        await turns()

    async def _stay(self, number: int) -> None:
        async with self.room.place(tells=True):
            self.inside.append(number)
            await self.leave[number].wait()


async def turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_places_are_given_in_the_order_asked_and_no_more_than_there_are() -> None:
    guests = Guests()
    await guests.come(*range(MOST + 3))
    assert guests.inside == [*range(MOST)]
    await guests.go(5)
    await guests.go(0)
    assert guests.inside[MOST:] == [MOST, MOST + 1]
    for task in guests.tasks.values():
        task.cancel()
    await asyncio.gather(*guests.tasks.values(), return_exceptions=True)


async def test_who_gives_up_waiting_or_fails_keeps_no_place() -> None:
    guests = Guests()
    await guests.come(*range(MOST + 2))
    guests.tasks[MOST].cancel()  # it waits
    guests.tasks[3].cancel()  # it is inside
    await asyncio.gather(guests.tasks[MOST], guests.tasks[3], return_exceptions=True)
    await turns()
    assert guests.inside[MOST:] == [MOST + 1]
    # Its turn comes in the instant in which it gives up.
    await guests.come(100)
    guests.leave[1].set()
    guests.tasks[100].cancel()
    await asyncio.gather(guests.tasks[1], guests.tasks[100], return_exceptions=True)
    await guests.come(101)
    assert guests.inside[-1] == 101
    for task in guests.tasks.values():
        task.cancel()
    await asyncio.gather(*guests.tasks.values(), return_exceptions=True)
