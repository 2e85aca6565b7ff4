"""The nodes and runs of a SuperLink, in its own process, through Flower's own state and handlers."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import internals, places
from oneflower_appliance.flower.features import Feature
from oneflower_appliance.flower.retention import tidy
from oneflower_appliance.flower.waiters import Waiters
from oneflower_appliance.flower.wording import lost_its_heartbeat
from oneflower_appliance.node_state import UNREGISTERED, NodeState
from oneflower_appliance.run_state import FINISHED, RunState
from oneflower_appliance.site_choice import SiteChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from oneflower_appliance.flower.chosen_nodes import ChosenNodes
    from oneflower_appliance.flower.deliveries import HalfReplies

log = logging.getLogger("flwr")


class LinkState:
    """Flower's state. `factory` is what its application was made with; `on_start` is called when a run was started.

    `warm` says whether nodes end their tasks when a run has ended. `replies` are those that nodes are sending. `chosen`
    has the sites of runs.
    """

    def __init__(
        self, factory: Any, on_start: Callable[[], None] = lambda: None, *, warm: bool = False,
        replies: HalfReplies | None = None, chosen: ChosenNodes | None = None,
    ) -> None:  # fmt: skip
        self._factory = factory
        self._on_start = on_start
        self._warm = warm
        self._replies = replies
        self.waiters = Waiters()
        self._chosen = chosen
        self._handlers = internals.control_handlers()
        self._requests = internals.control_messages()
        constants = internals.constants()
        self._account = SimpleNamespace(flwr_aid=constants.NOOP_FLWR_AID, account_name=constants.NOOP_ACCOUNT_NAME)

    @property
    def _state(self) -> Any:
        return self._factory.state()

    def nodes(self) -> list[NodeState]:
        """Return every node that was ever known."""
        return [_node(info) for info in self._state.get_node_info()]

    def held(self, run: str) -> str:
        """Return which nodes hold a run until their site approves its app, as a sentence; empty if none does."""
        holding = self.waiters.holding(run)
        nodes = sorted(self._name_of(bytes.fromhex(key)) for key in holding)
        if not nodes:
            return ""
        wait = "waits for its operator's" if len(nodes) == 1 else "wait for their operator's"
        return f"{', '.join(nodes)} {wait} approval of {next(iter(holding.values()))}."

    def _name_of(self, public_key: bytes) -> str:
        node = self._state.get_node_id_by_public_key(public_key)
        found = self._state.get_node_info(node_ids=[node]) if node is not None else ()
        return next((_node(info).name for info in found), "") or f"node {node}"

    def is_online(self, node: int) -> bool:
        """Whether a node is online."""
        found = self._state.get_node_info(node_ids=[node])
        return bool(found) and _node(found[0]).online

    def last_heard(self, node: int) -> str:
        """Return since when a node is offline, as RFC 3339; empty if it is online, or never was."""
        found = self._state.get_node_info(node_ids=[node])
        return "" if not found or _node(found[0]).online else str(found[0].last_deactivated_at or "")

    def is_at(self, message: str) -> bool:
        """Whether a node took this message, has not answered it, and will not end its task by itself."""
        if not places.have(Feature.STUCK_NODES):
            return False
        sql = internals.link_states()
        sent, replies = sql.MessageInsModel, sql.MessageResModel
        taken = sql.select(sent.run_id).where(sent.message_id == message, sent.delivered_at != "")
        answered = sql.select(replies.message_id).where(replies.reply_to_message_id == message)
        with self._state.session() as session:
            run, answer = session.scalar(taken), session.scalar(answered)
        if run is None or answer is not None:
            return False
        return not self._warm or sql.int64_to_uint64(run) in self.going()

    def take_back(self, message: str) -> None:
        """Let a message count as not delivered."""
        sql = internals.link_states()
        sent = sql.MessageInsModel
        with self._state.session() as session:
            session.execute(sql.update(sent).where(sent.message_id == message).values(delivered_at=""))

    def give_up(self, node: int, message: str) -> None:
        """Delete a message to a node, with its reply and all objects, if they are still there."""
        if self._replies is not None:
            self._replies.drop(self._state, node, message)

    def knows(self, public_key: bytes) -> bool:
        """Whether a key is registered."""
        return self._state.get_node_id_by_public_key(public_key) is not None

    def register(self, public_key: bytes, name: str = "") -> int:
        """Register a key as Flower's own command does; a key that is known keeps its node id, and its name.

        Raises `OneflowerError`, with CONFLICT when the key was unregistered before: Flower never accepts it again.
        """
        known = self._state.get_node_id_by_public_key(public_key)
        if known is not None:
            return int(known)
        request = self._requests.RegisterNodeRequest(public_key=public_key, name=name or None)
        errors = internals.errors()
        try:
            return int(self._handlers.register_node(request, self._account, self._state).node_id)
        except errors.FlowerError as error:
            spent = error.code == errors.ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE
            code = ExitCode.CONFLICT if spent else ExitCode.INVALID_INPUT
            raise OneflowerError(error.message, "The node has to make another key.", code) from error

    def unregister(self, node: int) -> None:
        """Remove a node. It is not an error if it is unknown."""
        for found in self._state.get_node_info(node_ids=[node]):
            if found.status != UNREGISTERED:
                self._state.delete_node(owner_aid=found.owner_aid, node_id=node)

    def deactivate(self, node: int) -> None:
        """Let a node count as offline from now on: what a round still waits for from it fails at once."""
        self._state.deactivate_node(node)

    def called(self, node: int) -> str:
        """Return what to call a node in a log: by its name, if it has one, and its id."""
        return called(self._state, node)

    def runs(self) -> list[RunState]:
        """Return all runs, oldest first."""
        return [_run(info) for info in self._state.get_run_info(order_by="pending_at")]

    def run(self, number: int) -> RunState | None:
        """Return a run as Flower knows it, None if there is none."""
        found = self._state.get_run_info(run_ids=[number])
        return _run(found[0]) if found else None

    def log(self, number: int, after: float) -> dict[str, Any] | None:
        """Return what a run's ServerApp logged after a given time, and the time of its last line."""
        found = self._state.get_run_info(run_ids=[number])
        if not found or found[0].primary_task_id is None:
            return None
        text, latest = self._state.get_task_log(found[0].primary_task_id, after or None)
        return {"text": text, "latest": latest}

    def start(self, app: Path, config: Mapping[str, str | int | float | bool]) -> str:
        """Start a run of the app in a folder, with `config` over its own, and return its id."""
        content = internals.app_builder().build_fab_from_disk(app)
        return self._start(self._fab(content=content), "", config, self._form)

    def submit(
        self,
        files: Mapping[str, bytes],
        config: Mapping[str, str | int | float | bool],
        sites: tuple[str, ...] | None = None,
        least: int | None = None,
    ) -> str:
        """Start a run of the app that consists of these files, as `flwr run` does, and return its id.

        `sites` take part, and each round needs `least` of them: those of the form unless they are given. Raises
        `OneflowerError`: with ENVIRONMENT if it has to be `flwr run`.
        """
        form = self._form
        choice = SiteChoice(form.sites if sites is None else sites, form.least if least is None else least)
        if self._chosen:
            self._chosen.check(choice)
        if not self._warm or not places.have(Feature.SUBMISSION):
            raise OneflowerError("Runs are started with `flwr run` here.", "", ExitCode.ENVIRONMENT)
        try:
            content, _ = internals.app_builder().build_fab_from_files(files)
            return self._start(self._fab(content=content), "", config, choice)
        except ValueError as error:
            raise OneflowerError(str(error), "", ExitCode.INVALID_INPUT) from error
        except internals.errors().FlowerError as error:
            raise OneflowerError(error.message, "", ExitCode.RUN_FAILED) from error

    def start_again(self, number: int) -> str:
        """Start a run with the app and the configuration of another, and return its id.

        Raises `OneflowerError` if there is no such run.
        """
        found = self._state.get_run_info(run_ids=[number])
        if not found:
            raise OneflowerError(f"There is no run {number}.", "", ExitCode.NOT_FOUND)
        info, choice = found[0], self._chosen.earlier(number) if self._chosen else SiteChoice()
        return self._start(self._fab(hash_str=info.fab_hash), f"@{info.fab_id}", info.override_config, choice)

    def stop(self, number: int) -> None:
        """Stop a run, if it has not ended."""
        found = self._state.get_run_info(run_ids=[number])
        if found and found[0].status.status != FINISHED:
            self._state.stop_run(number)

    def run_of_serverapp(self, token: str) -> int | None:
        """Return the run whose ServerApp has the token, or None if it has ended or is another kind of task."""
        task = self._state.get_task_by_token(token)
        found = self._state.get_run_info(run_ids=[task.run_id]) if task else []
        return int(task.run_id) if found and found[0].primary_task_id == task.task_id else None

    def fail(self, token: str, details: str) -> None:
        """Let the task of a token fail, and if it is a ServerApp, its run."""
        if task := self._state.get_task_by_token(token):
            self._state.finish_task(task.task_id, "failed", details)

    def going(self) -> list[int]:
        """Return the runs that have not ended."""
        return [info.run_id for info in self._state.get_run_info() if info.status.status != FINISHED]

    def of_those_going(self, runs: set[int]) -> set[int]:
        """Return which of some runs have not ended."""
        found = self._state.get_run_info(run_ids=list(runs))
        return {info.run_id for info in found if info.status.status != FINISHED}

    def tidy(self, forget: Iterable[int]) -> None:
        """Delete the data that ended runs no longer need, and all data of the runs to `forget`."""
        if places.have(Feature.RETENTION):
            tidy(self._state, forget)

    def _fab(self, **values: Any) -> Any:
        return internals.fab_messages().Fab(**values)

    def waits_for_sites(self, number: int) -> str:
        """Return why a run has no nodes now, if that is because of the sites that it needs; otherwise an empty text."""
        return self._chosen.waits_for(number, self._online) if self._chosen else ""

    def _online(self) -> set[int]:
        return {int(node.id) for node in self.nodes() if node.online}

    @property
    def _form(self) -> SiteChoice:
        return self._chosen.form if self._chosen else SiteChoice()

    def _start(self, fab: Any, app: str, config: Mapping[str, Any], choice: SiteChoice) -> str:
        overrides = internals.conversions().user_config_to_proto(dict(config))
        request = self._requests.StartRunRequest(fab=fab, app_spec=app, override_config=overrides)

        begun: list[int] = []

        def begin() -> int:
            begun.append(int(self._handlers.start_run(request, self._account, self._state, None).run_id))
            return begun[0]

        try:
            number = self._chosen.start(choice, begin) if self._chosen else begin()
        except OneflowerError:  # what was chosen for it cannot be written down
            for number in begun:
                self.stop(number)
            raise
        if not number:
            raise OneflowerError("Flower did not start the run.", "See the SuperLink's log.", ExitCode.RUN_FAILED)
        self._on_start()
        return str(number)


def called(state: Any, node: int) -> str:
    """Return what to call a node in a log: by its name, if it has one, and its id."""
    names = [found.name for found in state.get_node_info(node_ids=[node]) if found.name]
    return f"{names[0]} (node {node})" if names else f"node {node}"


def _node(info: Any) -> NodeState:
    return NodeState(str(info.node_id), info.status, info.name)


def _run(info: Any) -> RunState:
    status = info.status
    lost = status.status == FINISHED and lost_its_heartbeat(status.details)
    said = (str(info.run_id), info.fab_id, status.status, status.sub_status, status.details)
    return RunState(*said, lost=lost, app_hash=info.fab_hash)
