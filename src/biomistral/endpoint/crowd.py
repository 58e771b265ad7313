"""Many requests at once, each reply handed over as it comes."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from biomistral.endpoint.account import Account
from biomistral.endpoint.client import Client, ClosedError, RefusedError, Reply, Request
from biomistral.endpoint.place import Place
from biomistral.errors import UserError
from biomistral.recipe import Requests

Deliver = Callable[[Request, Reply], None]
Refuse = Callable[[Request, RefusedError], None]


def ask_all(place: Place, use: Requests, account: Account, requests: Iterable[Request], deliver: Deliver,
            refused: Refuse) -> None:
    """Send all requests, ``use.concurrency`` at a time, in their order; replies are delivered in the order they come.

    A request that the server refuses goes to ``refused``, which raises a UserError or lets the others go on. When one fails for
    good, what is in flight is still waited for and delivered, nothing new is sent, and then the failure is raised.

    Raises:
        UserError: see `Client.ask`; what ``refused`` raises.
    """
    asyncio.run(_ask_all(place, use, account, iter(requests), deliver, refused))


async def _ask_all(place: Place, use: Requests, account: Account, waiting: Iterator[Request], deliver: Deliver,
                   refused: Refuse) -> None:
    failures: list[UserError] = []

    async def one_after_another(client: Client) -> None:
        for request in waiting:  # all share the iterator: each takes what is next
            try:
                try:
                    deliver(request, await client.ask(request))
                except RefusedError as error:
                    refused(request, error)
            except UserError as error:
                failures.append(error)
                client.close()
            except ClosedError:
                return

    async with Client(place, use, account) as client:
        await asyncio.gather(*(one_after_another(client) for _ in range(use.concurrency)))
    if failures:
        raise failures[0]
