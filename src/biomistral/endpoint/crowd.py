"""Many requests at once, each reply handed over as it comes."""

import asyncio
from collections.abc import Callable, Iterable

from biomistral.endpoint.account import Account
from biomistral.endpoint.client import Client, ClosedError, RefusedError, Reply, Request
from biomistral.endpoint.line import Line, Try
from biomistral.endpoint.place import Place
from biomistral.errors import UserError
from biomistral.recipe import Requests

Deliver = Callable[[Request, Reply], None]
Refuse = Callable[[Request, RefusedError], None]

_MOST_BESIDE = 4
"""For each so many in flight one may wait beside them until it is sent again. At a tenth failing, with a second's wait and
answers in 10 s, 1 % wait. A server that is down meets a quarter more requests than may be in flight, not all there are."""


def ask_all(place: Place, use: Requests, account: Account, requests: Iterable[Request], deliver: Deliver, refused: Refuse,
            alone: float = 0.0) -> None:
    """Send all requests, ``use.concurrency`` at a time, in their order; replies are delivered in the order they come.

    ``alone``: seconds that the first goes ahead, or until the server has said something: what it refuses, it refuses at once.
    A request that the server refuses goes to ``refused``, which raises a UserError or lets the others go on. When one fails for
    good, what is in flight is still waited for and delivered, nothing new is sent, and then the failure is raised.

    Raises:
        UserError: see `Client.ask`; what ``refused`` raises.
    """
    crowd = _Crowd(Line(requests, use.concurrency // _MOST_BESIDE), deliver, refused)
    asyncio.run(crowd.ask(place, use, account, alone))
    if crowd.failures:
        raise crowd.failures[0]


class _Crowd:
    def __init__(self, line: Line, deliver: Deliver, refused: Refuse) -> None:
        self._line, self._deliver, self._refused = line, deliver, refused
        self.failures: list[UserError] = []

    async def ask(self, place: Place, use: Requests, account: Account, alone: float) -> None:
        async with Client(place, use, account) as client:
            askers = [asyncio.create_task(self._one_after_another(client))]
            if alone:
                await client.heard(alone)
            askers += [asyncio.create_task(self._one_after_another(client)) for _ in range(use.concurrency - 1)]
            await asyncio.gather(*askers)

    async def _one_after_another(self, client: Client) -> None:
        while (found := self._line.next()) is not None:
            task, seconds = found
            try:
                await client.sleep(seconds)
                await self._once(client, task)
            except UserError as error:
                self.failures.append(error)
                client.close()
            except ClosedError:
                return

    async def _once(self, client: Client, task: Try) -> None:
        try:
            found = await client.ask(task.request, task.failures)
        except RefusedError as error:
            self._refused(task.request, error)
            return
        if isinstance(found, Reply):
            self._deliver(task.request, found)
        else:
            self._line.again(task, found)
