"""What workers share through Redis, where there is one: token buckets, and word of charges that have changed.

Never a charge: a Redis that fails over can forget what it has confirmed. What is lost here costs no money: buckets are
full again, and who waits for a charge looks by itself a little later.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from rail402.errors import ConfigurationError, StoreError
from rail402.stores.base import TokenBucket
from rail402.stores.wakeups import Wakeups

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisLimits"]

logger = logging.getLogger("rail402.stores")

_TIMEOUT: Final = 1
_CONNECTIONS: Final = 8
_PATIENCE: Final = 5  # seconds to wait for one of them
_MAX_PENDING: Final = 1024
_MAX_PAUSE: Final = 30

# Microseconds here, since Redis calculates with 53 bits; a token that takes a fraction of one takes a whole one.
_SPEND: Final = """
local now = tonumber(ARGV[4])
if now < 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local burst, token = tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local there = burst - math.ceil((full_at - now) / token)
local taken = math.max(0, math.min(tonumber(ARGV[1]), there))
if taken > 0 then
    full_at = full_at + taken * token
    local lapses = string.format('%.0f', math.ceil((full_at - now) / 1000))
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', lapses)
end
return taken
"""


class RedisLimits:
    """Buckets and wake-ups in one Redis (6 or newer, or Valkey).

    Args:
        url: `redis://` or `rediss://`, with user and password if there are any. Secret.
        prefix: what every key and channel begins with, so that others can use the same Redis.
        own_clock: count by the `now` that `spend` is told, and not by the clock of Redis, which all workers share.

    Raises:
        ConfigurationError: the URL cannot be used, or redis-py is not installed.
    """

    def __init__(self, url: str, *, prefix: str = "rail402:", own_clock: bool = False) -> None:
        self._redis = _connect(url)
        self._prefix, self._own_clock = prefix, own_clock
        self._script = self._redis.register_script(_SPEND)
        self._me = secrets.token_hex(8)
        self._pending: asyncio.Queue[str] = asyncio.Queue(_MAX_PENDING)
        self._tasks: list[asyncio.Task[None]] = []
        self._wakeups: Wakeups | None = None

    def __repr__(self) -> str:
        return f"RedisLimits(prefix={self._prefix!r})"

    async def close(self) -> None:
        """Stop passing wake-ups on, and close the connections."""
        if self._wakeups is not None:
            self._wakeups.relay = None
        tasks, self._tasks, self._wakeups = self._tasks, [], None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._redis.aclose()

    # --- buckets

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        """Take up to `tokens` tokens from the bucket of that name; see `Store.spend`.

        Raises:
            StoreError: Redis cannot be reached.
        """
        token = -(-limit.token_ns // 1000)
        taken = await self._run(tokens, limit.burst, token, int(now * 10**6) if self._own_clock else -1, bucket=bucket)
        return int(taken)

    async def _run(self, *values: int, bucket: str) -> Any:
        from redis.exceptions import RedisError

        try:
            return await self._script(keys=[f"{self._prefix}bucket:{bucket}"], args=values)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(f"Redis cannot be used: {type(error).__name__}") from error

    # --- wake-ups

    def start(self, wakeups: Wakeups | None) -> None:
        """Tell the other workers which charges change here, and wake who waits here for what changes there."""
        if wakeups is not None:
            self._wakeups, wakeups.relay = wakeups, self._announce
            self._tasks = [asyncio.create_task(self._keep_at(work)) for work in (self._publish, self._listen)]

    def _announce(self, charge_id: str) -> None:
        with suppress(asyncio.QueueFull):  # a hint that is lost makes somebody wait for the next look
            self._pending.put_nowait(charge_id)

    async def _keep_at(self, work: Callable[[], AsyncIterator[object]]) -> None:
        """Do it for ever; while Redis is down, try ever more seldom."""
        from redis.exceptions import RedisError

        pause = 0
        while True:
            try:
                async for _ in work():
                    pause = 0
            except (RedisError, OSError, TimeoutError) as error:
                level = logging.DEBUG if pause else logging.WARNING
                logger.log(level, "no wake-ups by Redis for now (%s): workers look by themselves", type(error).__name__)
            pause = min(2 * pause or 1, _MAX_PAUSE)
            await asyncio.sleep(pause)

    async def _publish(self) -> AsyncIterator[object]:
        while True:
            charge_id = await self._pending.get()
            yield await self._redis.publish(self._channel, f"{self._me} {charge_id}")

    async def _listen(self) -> AsyncIterator[object]:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as messages:
            await messages.subscribe(self._channel)
            while True:
                message = await messages.get_message(timeout=None)
                if message is None:
                    continue
                sender, _, charge_id = message["data"].partition(" ")
                if sender != self._me and self._wakeups is not None:
                    self._wakeups.heard(charge_id)
                yield message

    @property
    def _channel(self) -> str:
        return f"{self._prefix}charges"


def _connect(url: str) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as error:
        raise ConfigurationError("Redis needs redis-py: pip install 'rail402[redis]'") from error
    if not url.startswith(("redis://", "rediss://", "unix://")):  # the rest of it may hold a password
        raise ConfigurationError("the URL of Redis must begin with redis://, rediss:// or unix://")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_PATIENCE,
            decode_responses=True,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigurationError("the URL of Redis cannot be read") from error
    return Redis.from_pool(pool)
