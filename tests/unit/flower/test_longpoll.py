"""Held questions, before an application that answers as Flower's do."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import (
    Message,
    Metadata,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskResponse, PullAppMessagesRequest, PullAppMessagesResponse

from oneflower_appliance.flower.serving import VISIT
from oneflower_appliance.flower.warm import bundles
from oneflower_appliance.flower.warm.longpoll import LongPoll
from oneflower_appliance.flower.warm.questions import ACQUIRE_TASK

NODE_PULL, GRID_PULL = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
MESSAGES = PullMessagesResponse(messages_list=[Message()]).SerializeToString()


class Flower:
    """An application: what it has to say by path, how often it was asked, how many it answers at a time."""

    def __init__(self, pause):
        self.says, self.status, self.pause = {}, 200, pause
        self.asked = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, scope, receive, send):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.append(scope["path"])
        body = (await receive())["body"]
        await asyncio.sleep(self.pause)
        said = self.says.get(scope["path"], b"")
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": said(body) if callable(said) else said})
        self.at_once -= 1


class Client:
    """One request at a time, as a server would hand it over."""

    def __init__(self, poll, who=""):
        self.poll, self.gone = poll, asyncio.Event()
        self.state = {VISIT: SimpleNamespace(who=who)}

    async def ask(self, path, body=b"", wait=None, parts=None):
        headers = [(b"prefer", f"respond-async, wait={wait}".encode())] if wait else []
        incoming = list(parts or [(0, body)])
        sent = []

        async def receive():
            if not incoming:
                await self.gone.wait()
                return {"type": "http.disconnect"}
            delay, part = incoming.pop(0)
            await asyncio.sleep(delay)
            return {"type": "http.request", "body": part, "more_body": bool(incoming)}

        async def send(message):
            sent.append(message)

        started = time.monotonic()
        await self.poll({"type": "http", "path": path, "headers": headers, "state": self.state}, receive, send)
        seconds = time.monotonic() - started
        if not sent:
            return None, {}, seconds
        return sent[1]["body"], dict(sent[0]["headers"]), seconds


async def asked(flower, path, times):
    """Wait until requests were asked and are held."""
    while flower.asked.count(path) < times or flower.at_once:  # noqa: ASYNC110 - the limit is that of the scenario
        await asyncio.sleep(0.01)


def run(scenario, pause=0.01):
    async def main():
        flower = Flower(pause)
        poll = LongPoll(flower)
        await asyncio.wait_for(scenario(flower, poll, Client(poll)), 10)

    asyncio.run(main())


def test_who_does_not_ask_to_wait_is_answered_at_once():
    async def scenario(flower, _poll, client):
        body, headers, seconds = await client.ask(NODE_PULL)
        assert (body, headers) == (b"", {})
        assert seconds < 0.5
        assert flower.asked == [NODE_PULL]

    run(scenario)


@pytest.mark.parametrize(
    ("question", "change", "answer"),
    [
        (NODE_PULL, "/v1/runtime/push-messages", MESSAGES),
        (ACQUIRE_TASK, "/v1/control/start-run", AcquireTaskResponse(token="x").SerializeToString()),
    ],
)
def test_a_question_is_held_until_what_it_waits_for_happens(question, change, answer):
    async def scenario(flower, _poll, client):
        asking = asyncio.ensure_future(client.ask(question, wait=5))
        await asyncio.sleep(0.2)
        assert not asking.done()
        flower.says[question] = answer
        await client.ask("/v1/runtime/push-logs")  # has nothing to do with it
        await asyncio.sleep(0.05)
        assert not asking.done()
        await client.ask(change)
        body, headers, seconds = await asking
        assert body == answer
        assert headers == {b"preference-applied": b"wait"}
        assert seconds < 1

    run(scenario)


@pytest.mark.parametrize(("question", "times"), [(ACQUIRE_TASK, 2), (NODE_PULL, 1)])
def test_after_the_time_that_the_client_named_it_is_answered_without_content(question, times):
    async def scenario(flower, _poll, client):
        body, headers, seconds = await client.ask(question, wait=0.15)
        assert (body, headers) == (b"", {b"preference-applied": b"wait"})
        assert 0.15 <= seconds < 1
        assert len(flower.asked) == times, "once more at the end, where time itself may bring an answer"

    run(scenario)


def test_a_client_that_went_away_is_not_given_what_it_would_not_receive():
    async def scenario(flower, _poll, client):
        asking = asyncio.ensure_future(client.ask(NODE_PULL, wait=5))
        await asyncio.sleep(0.1)
        client.gone.set()
        assert (await asking)[0] is None
        flower.says[NODE_PULL] = MESSAGES
        await Client(client.poll).ask("/v1/runtime/push-messages")
        assert flower.asked.count(NODE_PULL) == 1

    run(scenario)


def test_replies_are_waited_for_by_the_ids_of_their_messages():
    def reply(number):
        metadata = Metadata(reply_to_message_id=number)
        return PushMessagesRequest(messages_list=[Message(metadata=metadata)]).SerializeToString()

    async def scenario(flower, poll, client):
        pull = PullAppMessagesRequest(message_ids=["1", "2"]).SerializeToString()
        asking = asyncio.ensure_future(client.ask(GRID_PULL, pull, wait=5))
        await asked(flower, GRID_PULL, 1)
        flower.says[GRID_PULL] = PullAppMessagesResponse(messages_list=[Message()]).SerializeToString()
        await client.ask("/v1/fleet/push-messages", reply("3"))
        await asyncio.sleep(0.05)
        assert flower.asked.count(GRID_PULL) == 1, "that is an answer to another message"
        await client.ask("/v1/fleet/push-messages", reply("2"))
        body, headers, seconds = await asking
        assert (body, headers) == (flower.says[GRID_PULL], {b"preference-applied": b"wait"})
        assert seconds < 1
        assert poll.waiting() == {}

    run(scenario)


def test_an_object_is_waited_for_by_its_own_id():
    async def scenario(flower, _poll, client):
        there = set()

        def say(body):
            wanted = PullObjectRequest.FromString(body).object_id
            return PullObjectResponse(object_found=True, object_available=wanted in there).SerializeToString()

        flower.says["/v1/fleet/pull-object"] = say
        first, second = (
            asyncio.ensure_future(
                client.ask("/v1/fleet/pull-object", PullObjectRequest(object_id=name).SerializeToString(), wait=5)
            )
            for name in ("one", "two")
        )
        await asked(flower, "/v1/fleet/pull-object", 2)
        there.add("two")
        await client.ask("/v1/runtime/push-object", PushObjectRequest(object_id="two").SerializeToString())
        assert PullObjectResponse.FromString((await second)[0]).object_available
        assert not first.done()
        assert flower.asked.count("/v1/fleet/pull-object") == 3
        there.add("one")
        await client.ask("/v1/runtime/push-object", PushObjectRequest(object_id="one").SerializeToString())
        assert PullObjectResponse.FromString((await first)[0]).object_available

    run(scenario)


@pytest.mark.parametrize("api", [("runtime", "fleet"), ("fleet", "runtime")])
def test_who_waits_for_an_object_or_a_bundle_gets_it_when_a_bundle_comes(api):
    one, path = "ab" * 32, f"/v1/{api[1]}/pull-object"
    request = PullObjectRequest(object_id=one, run_id=7).SerializeToString()
    handed = bundles.Request.write(request, *bundles.write_handed("session", [(one, b"content")]))

    async def scenario(flower, _poll, client):
        flower.says[path] = PullObjectResponse(object_found=True).SerializeToString()
        waiting = [
            asyncio.ensure_future(client.ask(path, request, wait=5)),
            asyncio.ensure_future(client.ask(f"{path}s", bundles.Request.write(request, bytes(32)), wait=5)),
        ]
        await asked(flower, path, 1)
        await asked(flower, f"{path}s", 1)
        flower.says[path] = PullObjectResponse(object_found=True, object_available=True).SerializeToString()
        flower.says[f"{path}s"] = b"bundle"
        await client.ask(f"/v1/{api[0]}/push-objects", handed)
        for found in await asyncio.gather(*waiting):
            assert found[0]
            assert found[2] < 3

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/fleet/pull-object", "/v1/runtime/pull-object"])
def test_nothing_is_kept_of_questions_that_were_answered(path):
    async def scenario(flower, poll, client):
        there = PullObjectResponse(object_found=True, object_available=True, object_content=b"x").SerializeToString()
        not_yet = PullObjectResponse(object_found=True, object_available=False).SerializeToString()
        # Answered at once, without an answer in time, and by clients that went away.
        for says, wait, names in ((there, 5, range(2000)), (not_yet, 0.01, range(2000, 2020))):
            flower.says[path] = says
            for name in names:
                await client.ask(path, PullObjectRequest(object_id=str(name)).SerializeToString(), wait=wait)
        asking = [
            asyncio.ensure_future(
                client.ask(path, PullObjectRequest(object_id=str(name % 3)).SerializeToString(), wait=5)
            )
            for name in range(9)
        ]
        await asyncio.sleep(0.2)
        assert poll.waiting() == {path: 3}
        client.gone.set()
        await asyncio.gather(*asking)
        assert poll.waiting() == {}

    run(scenario, pause=0)


def test_an_object_that_will_never_come_is_not_waited_for():
    async def scenario(flower, _poll, client):
        flower.says["/v1/fleet/pull-object"] = PullObjectResponse(object_found=False).SerializeToString()
        assert (await client.ask("/v1/fleet/pull-object", wait=5))[2] < 0.5

    run(scenario)


def test_a_refusal_is_not_held():
    async def scenario(flower, _poll, client):
        flower.status = 401
        assert (await client.ask(NODE_PULL, wait=5))[2] < 0.5

    run(scenario)


def test_when_the_server_stops_everybody_is_answered_and_nobody_is_told_that_it_waited():
    async def scenario(_flower, poll, client):
        asking = [asyncio.ensure_future(client.ask(path, wait=5)) for path in (NODE_PULL, GRID_PULL, ACQUIRE_TASK)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(poll.close)
        for body, headers, seconds in await asyncio.gather(*asking):
            assert (body, headers) == (b"", {})
            assert seconds < 1
        assert (await client.ask(NODE_PULL, wait=5))[2] < 0.5

    run(scenario)


def test_requests_are_passed_on_one_at_a_time_but_a_slow_one_keeps_nobody_waiting():
    async def scenario(flower, _poll, client):
        slow = asyncio.ensure_future(client.ask("/v1/fleet/push-object", parts=[(0, b""), (1, b"")]))
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(*(client.ask("/v1/fleet/push-messages") for _ in range(5)))
        assert all(seconds < 0.5 for _, _, seconds in answers)
        assert not slow.done()
        await slow
        assert flower.most_at_once == 1

    run(scenario)


def test_what_a_change_brings_is_told_to_who_lives_beside_it():
    told = []

    async def main():
        poll = LongPoll(Flower(0), on_change=lambda: told.append(1))
        await Client(poll).ask("/v1/runtime/push-messages")
        await Client(poll).ask("/v1/runtime/push-logs")

    asyncio.run(main())
    assert told == [1]
