"""The answering half of every transport: frame in, frame out, within what one peer may cost.

What may live here: decode, quota, handler, deadline, encode. What this file does not know: streams and sockets. Both
transports answer through it, so that the in-process one refuses whatever the real one refuses.
"""

from __future__ import annotations

import logging

import trio

from node.doors import Bell, Counters, Handler, Limits, Quota, Sparing
from node.errors import NodeError
from node.messages import Offer, Refusal, Reply, Request
from node.wire import MAX_REASON_BYTES, Unsendable, WireError, decode_request, encode

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())

REFUSED_S = 0.25
"""What a request over the quota waits for its refusal: a flood is as slow as its streams are few."""


def _refusal(code: str, reason: str) -> Refusal:
    text = "".join(letter if letter.isprintable() else " " for letter in reason)
    return Refusal(code, text.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))


class Service:
    """Answers request frames with reply frames, one quota for each peer."""

    def __init__(self, limits: Limits, counters: Counters, bell: Bell) -> None:
        """Refuse everything as busy until `handler` is set."""
        self.handler: Handler | None = None
        self._limits = limits
        self._counters = counters
        self._bell = bell
        self._quotas: dict[bytes, Quota] = {}

    def quota(self, peer_id: bytes) -> Quota:
        """What this peer has used; it survives reconnecting, so that reconnecting refills nothing."""
        if peer_id not in self._quotas:
            self._quotas[peer_id] = Quota(self._limits)
        return self._quotas[peer_id]

    def forget(self, peer_id: bytes) -> None:
        """The peer left the allowed set."""
        self._quotas.pop(peer_id, None)

    async def answer(self, peer_id: bytes, body: bytes) -> bytes:
        """The encoded reply to the encoded request `body`.

        Raises:
            WireError: `body` is no request. The caller says so and ends the stream: who breaks the format once has no
                way to tell which answer belongs to which question.
        """
        quota = self.quota(peer_id)
        quota.spent(len(body))
        try:
            request = decode_request(body)
        except WireError:
            self.count("malformed")
            raise
        reason = quota.refuse(max(1, len(request.notices)) if isinstance(request, Offer) else 1)
        if reason is not None:
            self.count("busy")
            await trio.sleep(REFUSED_S)
            return encode(_refusal("busy", reason))
        try:
            reply = self._encoded(await self._handle(peer_id, request))
        finally:
            quota.done()
        quota.spent(len(reply))
        return reply

    @staticmethod
    def malformed(error: WireError) -> bytes:
        """The last frame on a stream whose peer broke the format."""
        return encode(_refusal("malformed", str(error)))

    def count(self, name: str) -> None:
        """Add one to a counter and tell those who watch."""
        setattr(self._counters, name, getattr(self._counters, name) + 1)
        self._bell.ring()

    async def _handle(self, peer_id: bytes, request: Request) -> Reply:
        if self.handler is None:
            self.count("busy")
            return Refusal("busy", "starting")
        try:
            with trio.fail_after(self._limits.handler_s):
                return await self.handler(peer_id, request)
        except trio.TooSlowError:
            self.count("busy")
            return Refusal("busy", f"no answer within {self._limits.handler_s:g} s")
        except NodeError as error:
            # Our own words may name what a peer must not learn: only the kind of error leaves the house.
            self.count("failed")
            _log.warning("a request (%s) failed here: %s", type(request).__name__, error)
            return Refusal("busy", error.kind)
        except Exception:
            # A bug of ours that one peer's request can reach must not take the node away from the others.
            self.count("failed")
            _log.exception("a request (%s) met a fault here", type(request).__name__)
            return Refusal("busy", "fault")

    def _encoded(self, reply: Reply) -> bytes:
        try:
            return encode(reply)
        except Unsendable:
            self.count("failed")
            return encode(Refusal("busy", "the answer does not fit the format"))
