"""A node that is stuck with what its round no longer waits for, with Flower's own state on a disk."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.flower.api import superlink_api
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.training.abandoned import Abandoned
from tests.unit.flower_state import linkstate_factory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


class Fleet:
    """An active run, a node that is online, and a message for it."""

    def __init__(self, folder, *, warm):
        factory = linkstate_factory(folder)
        self.state = factory.state()
        self.run = self.state.create_run(
            "us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self.task = self.state.get_run_info(run_ids=[self.run])[0].primary_task_id
        self.state.claim_task(self.task)
        self.state.activate_task(self.task)
        self.node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"key", 30)
        self.state.activate_node(self.node, 30)
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = self.run, 1, self.task
        message = Message(RecordDict(), dst_node_id=self.node, message_type="train")
        self.message = message.metadata.__dict__["_message_id"] = message.object_id
        self._store(message)
        self.runs = folder / "runs"
        self.abandoned = Abandoned.beside(self.runs)
        self.api = superlink_api(LinkState(factory, warm=warm), self.runs)

    def _store(self, message):
        self.state.store_message_and_object_tree(message, get_object_tree(message), self.state.start_session(self.run))

    def take(self):
        [self.sent] = self.state.get_message_ins(self.node, limit=1)

    def answer(self):
        TaskIdentity._node_id = self.node
        reply = Message(Error(code=1, reason="boom"), reply_to=self.sent)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self._store(reply)

    def health(self):
        async def send():
            transport = httpx.ASGITransport(self.api)
            async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
                return await client.get(f"/health/supernode/{self.node}")

        return asyncio.run(send()).status_code


@pytest.fixture
def make(tmp_path, monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    return lambda warm=False: Fleet(tmp_path, warm=warm)


def test_a_node_is_stuck_from_when_its_round_gave_it_up_until_it_answers(make):
    fleet = make()
    fleet.take()
    assert fleet.health() == 200, "it is at work, and its round waits for it"
    fleet.abandoned.note({fleet.node: fleet.message})
    assert fleet.health() == 409
    fleet.answer()
    assert fleet.health() == 200
    assert fleet.abandoned.of(fleet.node) == []


def test_a_node_that_never_took_the_message_is_not_stuck_with_it(make):
    """It is busy with a message of another run, which may still be waited for."""
    fleet = make()
    fleet.abandoned.note({fleet.node: fleet.message})
    assert fleet.health() == 200


@pytest.mark.parametrize(("warm", "status"), [(True, 200), (False, 409)])
def test_what_warm_execution_ends_with_its_run_is_left_to_it(make, warm, status):
    fleet = make(warm)
    fleet.take()
    fleet.abandoned.note({fleet.node: fleet.message})
    assert fleet.health() == 409
    fleet.state.finish_task(fleet.task, sub_status="completed", details="")
    assert fleet.health() == status


def test_notes_that_cannot_be_written_are_said_and_no_more(tmp_path, caplog):
    (tmp_path / "abandoned").write_text("in the way")
    Abandoned.beside(tmp_path / "runs").note({7: "message"})
    assert "Node 7 is not freed of it" in caplog.text
    assert Abandoned.beside(tmp_path / "runs").of(7) == []
