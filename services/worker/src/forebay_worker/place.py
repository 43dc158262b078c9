"""What an operator says about this worker's place in the cluster: ``/v1/worker:drain``, ``/v1/worker:weight`` and
``/v1/blocks:rebalance``."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from forebay.contracts import (
    DrainReply,
    DrainRequest,
    RebalanceReply,
    RebalanceRequest,
    WeightReply,
    WeightRequest,
)
from forebay.contracts.blocks import DRAIN_PATH, REBALANCE_PATH, WEIGHT_PATH
from forebay.contracts.records import MemberState
from forebay.transport.app import read_record, record_response, require_admin
from forebay.transport.openapi import operation
from forebay_worker.rebalance import Rebalance


class PlaceRoutes:
    """``drain`` takes whether to drain and returns the state that is announced; ``weigh`` takes a capacity weight
    (``None``: its own) and returns what is announced. Changes are for administrators."""

    def __init__(
        self, rebalance: Rebalance, drain: Callable[[bool], MemberState], weigh: Callable[[float | None], float]
    ) -> None:
        self._rebalance = rebalance
        self._drain = drain
        self._weigh = weigh

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        app.router.add_post(DRAIN_PATH, self.drain)
        app.router.add_post(WEIGHT_PATH, self.weight)
        app.router.add_post(REBALANCE_PATH, self.rebalance)
        app.router.add_get(REBALANCE_PATH, self.state, allow_head=False)

    @operation(takes=DrainRequest, gives=DrainReply, is_admin=True)
    async def drain(self, request: web.Request) -> web.Response:
        """Gives this worker's share away, or takes it back."""
        require_admin(request)
        return record_response(DrainReply(state=self._drain((await read_record(request, DrainRequest)).draining)))

    @operation(takes=WeightRequest, gives=WeightReply, is_admin=True)
    async def weight(self, request: web.Request) -> web.Response:
        """Another capacity weight, until this worker ends."""
        require_admin(request)
        wanted = (await read_record(request, WeightRequest)).capacity_weight
        return record_response(WeightReply(capacity_weight=self._weigh(wanted)))

    @operation(takes=RebalanceRequest, gives=RebalanceReply, is_admin=True)
    async def rebalance(self, request: web.Request) -> web.Response:
        """Begins a rebalance, or stops it; answers at once."""
        require_admin(request)
        self._rebalance.start((await read_record(request, RebalanceRequest)).bytes_per_s)
        return record_response(self._rebalance.state())

    @operation(gives=RebalanceReply)
    async def state(self, request: web.Request) -> web.Response:
        """How far the rebalance is."""
        return record_response(self._rebalance.state())
