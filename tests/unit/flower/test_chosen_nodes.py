"""The sites of a run, with Flower's own state: which nodes a run sees, and where it may send."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower.chosen_nodes import ChosenNodes
from oneflower_appliance.flower.linkstate import LinkState
from oneflower_appliance.joining import Standing
from oneflower_appliance.run_folder import CHOICE
from oneflower_appliance.site_choice import SiteChoice
from oneflower_appliance.sites import Site, SiteNode, Sites
from tests.unit.flower_state import linkstate_factory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the alembic that makes Flower's database


class Federation:
    """A node of its own, one of north and one of south, all online; east has none."""

    def __init__(self, folder, form):
        factory = linkstate_factory(folder)
        self.folder = folder
        self.state = factory.state()
        self.nodes = {name: self.join(name) for name in ("", "north", "south")}
        self.sites = Sites({name: self.site(name) for name in ("north", "south", "east")})
        self.chosen = ChosenNodes(form, folder / "runs", lambda: self.sites)
        self.chosen.restrict()
        self.link = LinkState(factory, warm=True, chosen=self.chosen)

    def join(self, name):
        node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, f"key {name}".encode(), 30)
        assert self.state.activate_node(node, 30)
        return node

    def site(self, name):
        node = self.nodes.get(name)
        nodes = [SiteNode(0, name, name, Standing.APPROVED, str(node))] if node else []
        return Site(name, 1, 1, "", "", 0.0, nodes=tuple(nodes))

    def start(self, choice=None, number=None):
        def begin():
            return number or self.state.create_run(
                "us/app", "1", "hash", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
            )

        return begin() if choice is None else self.chosen.start(choice, begin)

    def seen(self, run):
        found = self.state.get_nodes(run)
        return {name or "-" for name, node in self.nodes.items() if node in found}

    def sends(self, run, name):
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = run, 1, 1
        content = RecordDict({"asked": ConfigRecord({"of": name})})
        message = Message(content, dst_node_id=self.nodes[name], message_type="query")
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(run)
        self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        return bool(self.state.get_message_ins(self.nodes[name], limit=1))


@pytest.fixture
def federation(tmp_path, monkeypatch):
    for name in ("get_nodes", "store_message_ins"):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))
    for name, value in (("_task_id", 1), ("_run_id", 17), ("_node_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)
    return lambda form=ALL: Federation(tmp_path, form)


ALL = SiteChoice()
SEEN = [
    ((), 0, {"-", "north", "south"}),
    (("north",), 0, {"north"}),
    (("-", "south"), 0, {"-", "south"}),
    (("-",), 0, {"-"}),
    ((), 2, {"-", "north", "south"}),
    ((), 3, set()),
    (("north", "east"), 2, set()),
    (("-", "north"), 1, {"-", "north"}),
]


def test_a_run_sees_the_nodes_of_its_sites_and_none_before_enough_sites_are_there(federation):
    made = federation()
    for sites, least, seen in SEEN:
        assert made.seen(made.start(SiteChoice(sites, least))) == seen, (sites, least)


def test_a_run_cannot_send_to_a_node_whose_site_was_not_chosen_even_if_it_knows_its_id(federation, caplog):
    made = federation()
    chosen, other = made.start(SiteChoice(("north",))), made.start(SiteChoice())
    assert made.sends(chosen, "north")
    assert not made.sends(chosen, "south")
    assert not made.sends(chosen, ""), "the federation's own nodes are of no site"
    assert "its site was not chosen (FL_SITES, --sites)" in caplog.text
    assert all(made.sends(other, name) for name in ("north", "south", ""))


def test_the_form_counts_for_every_run_that_chose_nothing_else_however_it_was_started(federation):
    made = federation(form=SiteChoice(("south",)))
    assert made.seen(made.start()) == {"south"}, "as `flwr run` starts it"
    assert made.seen(made.start(SiteChoice(("north",)))) == {"north"}


def test_a_run_that_resumes_another_keeps_its_sites_also_after_a_restart(federation):
    made = federation()
    run = made.start(SiteChoice(("north",), 1))
    again = ChosenNodes(SiteChoice(), made.folder / "runs", lambda: made.sites)
    assert again.earlier(run) == SiteChoice(("north",), 1)
    assert again.earlier(run + 1) == SiteChoice()
    (made.folder / "runs" / str(run) / CHOICE).write_text("{")
    with pytest.raises(OneflowerError, match="not known which sites"):
        again.earlier(run)


def test_an_app_that_changes_the_copy_in_its_folder_sees_no_more_nodes(federation):
    made = federation()
    run = made.start(SiteChoice(("north",)))
    (made.folder / "runs" / str(run) / CHOICE).write_text('{"sites": [], "least": 0}')
    assert made.seen(run) == {"north"}


IMPOSSIBLE = [
    (("north", "west"), 0, r"There is no site west here\. Known: east, north, south\."),
    (("nord", "sud"), 0, r"There are no sites nord, sud here"),
    (("north", "-"), 2, r"needs nodes of 2 sites, and it can have those of 1: north\."),
    ((), 4, r"needs nodes of 4 sites, and it can have those of 3: east, north, south\."),
]


def test_what_cannot_be_is_refused_before_anything_is_started(federation):
    made = federation()
    for sites, least, said in IMPOSSIBLE:
        with pytest.raises(OneflowerError, match=said) as error:
            made.link.submit({}, {}, sites, least)
        assert error.value.code is ExitCode.NOT_FOUND
    assert made.link.runs() == []


def test_what_a_run_waits_for_names_the_sites_that_are_there_and_those_that_are_not(federation):
    made = federation()
    waiting = made.link.waits_for_sites(made.start(SiteChoice((), 3)))
    assert "needs nodes of 3 sites (FL_MIN_SITES). There: north, south. Not there: east." in waiting
    assert made.link.waits_for_sites(made.start(SiteChoice((), 2))) == ""
    waiting = made.link.waits_for_sites(made.start(SiteChoice(("east",))))
    assert waiting == "No node of the chosen sites is online (east)."
    assert made.link.waits_for_sites(made.start(SiteChoice(("east", "-")))) == ""
