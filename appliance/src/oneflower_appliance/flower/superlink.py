"""The process of a SuperLink: Flower's application, served at our own sockets, with additions.

Flower serves its application at one socket, with no way to add another. So the one call that serves it is replaced, in
the one module of Flower that makes that call.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import PlainTextResponse

from oneflower_appliance.audit import FOLDER, AuditLog
from oneflower_appliance.corrections import LOST_DELIVERIES
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.files import SHARED, write_atomic
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.api import superlink_api
from oneflower_appliance.flower.audited import Audited
from oneflower_appliance.flower.bytecount import ByteCount
from oneflower_appliance.flower.chosen_nodes import ChosenNodes
from oneflower_appliance.flower.commands import superlink_arguments
from oneflower_appliance.flower.deliveries import forget_lost_deliveries
from oneflower_appliance.flower.door import FleetDoor, OwnDoor
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.key_order import KeyOrder
from oneflower_appliance.flower.late_replies import LateReplies
from oneflower_appliance.flower.leaving import Leaving
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.flower.membership import Membership
from oneflower_appliance.flower.news import Bell, Ringing
from oneflower_appliance.flower.redelivery import Redeliveries
from oneflower_appliance.flower.serving import Server, fleet_entrance, listen, own_entrance
from oneflower_appliance.flower.sitebook import SiteBook
from oneflower_appliance.flower.sitecalls import SiteCalls, SiteDoor
from oneflower_appliance.flower.superexec import StockSuperExec, start_in
from oneflower_appliance.flower.warm.bundle_server import BundleServer
from oneflower_appliance.flower.warm.cleanup import limit_task_cleanup
from oneflower_appliance.flower.warm.heartbeats import Heartbeats
from oneflower_appliance.flower.warm.longpoll import LongPoll
from oneflower_appliance.flower.warm.objectstore import keep_objects_out_of_database
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK, NODE_PULL, NODE_PULL_WHOLE, REPLIES
from oneflower_appliance.flower.warm.shortcuts import Shortcuts
from oneflower_appliance.flower.warm.whole_server import WholeServer
from oneflower_appliance.orders import FORM_VARIABLE, LEVEL_VARIABLE, SuperLinkOrders
from oneflower_appliance.run_folder import LOST
from oneflower_appliance.site_choice import SiteChoice
from oneflower_appliance.sites import Sites
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.departed import Departed

if TYPE_CHECKING:
    from oneflower_appliance.flower.serving import Entrance
    from oneflower_appliance.flower.warm.program import SuperExecProgram


def imports() -> None:
    """Import the part of Flower that this process needs."""
    internals.superlink_command()


def run(orders: str, superexec: SuperExecProgram | None) -> None:
    """Be a SuperLink. Raises `OneflowerError` if that would not be safe."""
    SuperLink(SuperLinkOrders.read(orders), superexec).run()


class SuperLink:
    """A SuperLink in this process."""

    def __init__(self, orders: SuperLinkOrders, superexec: SuperExecProgram | None) -> None:
        places.demand(Feature.FRONT_DOOR)
        form = SiteChoice.of(json.loads(os.environ.get(FORM_VARIABLE, "{}")))
        if not form.is_open:
            places.demand(Feature.SITE_CHOICE)
        self._orders = orders
        self._control, self._fleet = listen(orders.control), listen(orders.fleet)
        self._runs = orders.runs
        self._superexec = superexec
        self._served = False
        self._bell = Bell()
        self._in_memory = False  # the objects of messages
        self._redeliveries = Redeliveries()
        self._leaving = Leaving(Departed.beside(orders.runs), lambda: self._wake(NODE_PULL, NODE_PULL_WHOLE))
        self._book: SiteBook | None = None
        self._chosen = ChosenNodes(form, orders.runs, lambda: self._book.sites if self._book else Sites())

    def run(self) -> None:
        """Run Flower's command, until it ends."""
        sys.argv = ["flower-superlink", *superlink_arguments(self._orders)]
        command = internals.superlink_command()
        command.uvicorn = SimpleNamespace(run=self.serve)
        if self._superexec:
            self._superexec.replace_in(command)
        elif places.have(Feature.SUPERLINK_SUPEREXEC):
            start_in(command, StockSuperExec)
        if self._superexec and places.have(Feature.OBJECT_STORE):
            self._in_memory = True
            folder = self._orders.database.with_name("objects")
            keep_objects_out_of_database(folder, self._orders.object_memory << 20)
        command.flower_superlink()
        if not self._served:
            raise OneflowerError(
                "Flower did not serve its application through the front door.",
                "Use a release of Flower that this appliance is tested with (FLOWER_VERSION).",
                ExitCode.ENVIRONMENT,
            )

    def serve(self, app: Any, **settings: Any) -> None:
        """Serve Flower's application, instead of `uvicorn.run`. Its host and port are not used."""
        self._served = True
        self._app, self._state = app, places.application_state(app)
        if places.have(Feature.SITE_CHOICE):
            self._chosen.restrict()
        self._leaving.hide()
        self._polls = self._make_polls()
        self._link = self._make_link()
        settings["access_log"] = os.environ.get(LEVEL_VARIABLE) == "DEBUG"
        config = uvicorn.Config(app, timeout_graceful_shutdown=1, **settings)
        Server(config, self.entrances(), on_exit=self._close).run()

    def entrances(self) -> list[Entrance]:
        """Return the sockets, each with its application. A socket for another purpose is added here."""
        flower = self._polls if self._polls and self._superexec else self._app
        count = ByteCount() if self._orders.count_bytes else None
        self._book = book = self._site_book()
        files = self._orders.certificates
        calls = SiteCalls(book, lambda: self._wake(*REPLIES), files)
        order = KeyOrder(self._runs.with_name("key-order.json"))
        api = superlink_api(self._link, self._runs, self._bell, count, calls, order) if self._link else no_api()
        sites = SiteDoor(book, files.ca if files else None, self._audit)
        waiters = self._link.waiters if self._link else None
        fleet = FleetDoor(flower, api, Membership(self._app), sites, waiters, self._leaving, order)
        return [
            own_entrance(self._control, self._audited(OwnDoor(Ringing(flower, self._bell), api))),
            fleet_entrance(self._fleet, count.watch(fleet) if count else fleet),
        ]

    def _site_book(self) -> SiteBook | None:
        """Return the sites that may join. Without TLS and keys nobody could tell them from strangers."""
        if self._link is None or not self._orders.certificates or not self._orders.authenticate:
            return None
        book = SiteBook(self._runs.parent, self._link)
        book.settle()
        return book

    @property
    def _audit(self) -> AuditLog:
        return AuditLog(self._runs.parent / FOLDER)

    def _audited(self, door: OwnDoor) -> Audited:
        return Audited(door, self._audit, self._link.run if self._link else lambda _run: None)

    def _close(self) -> None:
        self._bell.close()
        if self._polls:
            self._polls.close()

    def _make_polls(self) -> LongPoll | None:
        if not places.have(Feature.HELD_QUESTIONS):
            return None
        app = Shortcuts(self._app) if places.have(Feature.SHORTCUTS) else self._app
        if self._in_memory and places.have(Feature.BUNDLES) and places.have(Feature.SUPERLINK_BUNDLES):
            app = BundleServer(app, self._state.linkstate_factory)
            if places.have(Feature.WHOLE_MESSAGES):
                app = WholeServer(app, self._state.linkstate_factory, self._redeliveries)
        polls = LongPoll(app, leaving=self._leaving)
        if places.have(Feature.HEARTBEATS):
            polls.heartbeats = Heartbeats(self._app, self._state.linkstate_factory, polls.turn)
        return polls

    def _make_link(self) -> LinkState | None:
        replies = None
        if LOST_DELIVERIES.applies and places.have(Feature.FORGET_LOST_DELIVERIES):
            replies = forget_lost_deliveries(lambda: self._wake(*REPLIES))
        if self._superexec and places.have(Feature.LIMIT_TASK_CLEANUP):
            limit_task_cleanup()
        if not places.have(Feature.API):
            return None
        warm = self._superexec is not None
        factory = self._state.linkstate_factory
        link = LinkState(
            factory, on_start=lambda: self._wake(ACQUIRE_TASK), warm=warm, replies=replies, chosen=self._chosen
        )
        late = LateReplies(link, Abandoned.beside(self._runs))
        if replies is not None:
            late.refuse()
            if warm and places.have(Feature.REDELIVERY):
                self._redeliveries.start(link, late)
        if self._polls and places.have(Feature.WORK):
            self._polls.look_after_work(link, late)
        for number in link.going():
            # Its ServerApp ended with the earlier Flower. It is stopped before any SuperNode can ask: a node that has
            # just taken a message when its run is stopped answers every later message too late (Flower 1.41).
            self._note_loss(number, "Its SuperLink was started again.")
            link.stop(number)
        if self._superexec and places.have(Feature.DEAD_SERVERAPPS):
            self._superexec.tasks.on_death = self._task_died
        return link

    def _wake(self, *paths: str) -> None:
        for path in paths:
            if self._polls:
                self._polls.wake(path)

    def _task_died(self, token: str, how: str) -> None:
        assert self._link is not None  # noqa: S101 - made before
        number = self._link.run_of_serverapp(token)
        if number is not None:  # recorded before the run ends, so that clients that follow it know why
            self._note_loss(number, f"Its ServerApp {how}.")
        self._link.fail(token, f"Its ServerApp {how}." if number is not None else f"The process of a task {how}.")

    def _note_loss(self, number: int, why: str) -> None:
        write_atomic(self._runs / str(number) / LOST, f"{why}\n", SHARED)


def no_api() -> PlainTextResponse:
    """Return what answers instead of the API if the API is off."""
    line = places.sentence(Feature.API, places.missing(Feature.API))
    return PlainTextResponse(f"{line}\n", status_code=501)
