"""The modules, classes and objects of Flower that no release promises to keep, each returned by a function.

They are imported when they are needed, and nowhere else in the appliance. `places` says which of their names are used,
and for what. Classes and objects have their types here. Modules cannot have one: that their names exist is a matter of
`places`. Some of Flower's packages have a function with the name of its module, which hides the module; the module is
then taken from `sys.modules`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app.message.array import Array
    from flwr.app.message.arraychunk import ArrayChunk
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.server.workflow import DefaultWorkflow
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.supercore.error import ApiErrorCode
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
    from flwr.supercore.protobuf.client import ProtobufClient
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.sql_mixin import SqlMixin
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.superlink.grid.http_grid import HttpGrid
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

# The classes with a database, by module. Each has a counterpart that keeps everything in memory.
DATABASES = {
    "flwr.server.superlink.linkstate.sql_linkstate": "SqlLinkState",
    "flwr.supercore.object_store.sql_object_store": "SqlObjectStore",
}

# Packages that a SuperNode's process imports, and does not use.
OF_NO_SUPERNODE = ("flwr.cli", "flwr.server")


def superlink_command() -> Any:
    """Return the module of `flower-superlink`."""
    import flwr.superlink.cli.flower_superlink  # noqa: F401, PLC0415

    return sys.modules["flwr.superlink.cli.flower_superlink"]


def superlink_application() -> Any:
    """Return the module of the application that a SuperLink serves."""
    from flwr.superlink import main  # noqa: PLC0415

    return main


def supernode_command() -> Any:
    """Return the module of `flower-supernode`."""
    import flwr.supernode.cli.flower_supernode  # noqa: F401, PLC0415

    return sys.modules["flwr.supernode.cli.flower_supernode"]


def superexec_command() -> Any:
    """Return the module of `flower-superexec`."""
    import flwr.supercore.cli.flower_superexec  # noqa: F401, PLC0415

    return sys.modules["flwr.supercore.cli.flower_superexec"]


def serverapp_command() -> Any:
    """Return the module of `flwr-serverapp`."""
    import flwr.superlink.cli.flwr_serverapp  # noqa: F401, PLC0415

    return sys.modules["flwr.superlink.cli.flwr_serverapp"]


def clientapp_command() -> Any:
    """Return the module of `flwr-clientapp`."""
    import flwr.supernode.cli.flwr_clientapp  # noqa: F401, PLC0415

    return sys.modules["flwr.supernode.cli.flwr_clientapp"]


def superexec_loop() -> Any:
    """Return the module of the SuperExec's loop."""
    from flwr.supercore.superexec import run_superexec  # noqa: PLC0415

    return run_superexec


def executors() -> Any:
    """Return the package of the executors, with which a SuperExec starts tasks."""
    from flwr.supercore.superexec import executor  # noqa: PLC0415

    return executor


def launch_result() -> type[LaunchResult]:
    """Return the class of an executor's answer."""
    from flwr.supercore.superexec.executor import LaunchResult  # noqa: PLC0415

    return LaunchResult


def exit_handlers() -> Any:
    """Return the module with the handlers for the end of a process."""
    from flwr.supercore.exit import exit_handler  # noqa: PLC0415

    return exit_handler


def http_client() -> type[ProtobufClient]:
    """Return the class of the HTTP client that all of Flower's clients are built on."""
    from flwr.supercore.protobuf.client import ProtobufClient  # noqa: PLC0415

    return ProtobufClient


def grid() -> Any:
    """Return the module of a ServerApp's grid."""
    from flwr.superlink.grid import http_grid  # noqa: PLC0415

    return http_grid


def grid_class() -> type[HttpGrid]:
    """Return the class of a ServerApp's grid."""
    from flwr.superlink.grid.http_grid import HttpGrid  # noqa: PLC0415

    return HttpGrid


def serverapp_task() -> Any:
    """Return the module that runs a ServerApp."""
    import flwr.superlink.runtime.run_serverapp  # noqa: F401, PLC0415

    return sys.modules["flwr.superlink.runtime.run_serverapp"]


def serverapps() -> Any:
    """Return the module of the class of ServerApps."""
    from flwr.serverapp import server_app  # noqa: PLC0415

    return server_app


def legacy_api() -> Any:
    """Return the package of the legacy API for ServerApps."""
    from flwr import server  # noqa: PLC0415

    return server


def legacy_strategies() -> Any:
    """Return the package of the strategies of the legacy API."""
    from flwr.server import strategy  # noqa: PLC0415

    return strategy


def legacy_records() -> Any:
    """Return the package of what the legacy API exchanges."""
    from flwr import common  # noqa: PLC0415

    return common


def legacy_servers() -> Any:
    """Return the package that starts servers of the legacy API."""
    from flwr.server import compat  # noqa: PLC0415

    return compat


def legacy_workflow() -> type[DefaultWorkflow]:
    """Return the class of the workflow of the legacy API."""
    from flwr.server.workflow import DefaultWorkflow  # noqa: PLC0415

    return DefaultWorkflow


def clientapp_task() -> Any:
    """Return the module that runs a ClientApp."""
    from flwr.supernode.runtime import run_clientapp  # noqa: PLC0415

    return run_clientapp


def constants() -> Any:
    """Return the older module of constants."""
    from flwr.common import constant  # noqa: PLC0415

    return constant


def core_constants() -> Any:
    """Return the constants that SuperLink and SuperNode share."""
    from flwr.supercore import constant  # noqa: PLC0415

    return constant


def core_utils() -> Any:
    """Return the helpers that SuperLink and SuperNode share."""
    from flwr.supercore import utils  # noqa: PLC0415

    return utils


def flower_log() -> Any:
    """Return the module of Flower's log."""
    from flwr.supercore import logger  # noqa: PLC0415

    return logger


def errors() -> Any:
    """Return the package of the errors of Flower's APIs."""
    from flwr.supercore import error  # noqa: PLC0415

    return error


def error_codes() -> type[ApiErrorCode]:
    """Return the codes of these errors."""
    from flwr.supercore.error import ApiErrorCode  # noqa: PLC0415

    return ApiErrorCode


def error_catalog() -> Any:
    """Return the module with the texts of these errors."""
    from flwr.supercore.error import catalog  # noqa: PLC0415

    return catalog


def node_authentication() -> Any:
    """Return the module that checks the signatures of SuperNodes."""
    from flwr.superlink.routers.fleet import node_auth  # noqa: PLC0415

    return node_auth


def control_middlewares() -> Any:
    """Return the module of the middlewares of the Control API."""
    from flwr.superlink.routers.control import middlewares  # noqa: PLC0415

    return middlewares


def fleet_middlewares() -> Any:
    """Return the module of the middlewares of the Fleet API."""
    from flwr.superlink.routers.fleet import middlewares  # noqa: PLC0415

    return middlewares


def control_handlers() -> Any:
    """Return the module with the handlers of the Control API."""
    from flwr.superlink.servicer.control import control_handlers as handlers  # noqa: PLC0415

    return handlers


def control_messages() -> Any:
    """Return the protocol of the Control API."""
    from flwr.proto import control_pb2  # noqa: PLC0415

    return control_pb2


def fleet_messages() -> Any:
    """Return the protocol of the Fleet API."""
    from flwr.proto import fleet_pb2  # noqa: PLC0415

    return fleet_pb2


def run_messages() -> Any:
    """Return the part of the protocols for runs."""
    from flwr.proto import run_pb2  # noqa: PLC0415

    return run_pb2


def heartbeat_messages() -> Any:
    """Return the part of the protocols for heartbeats."""
    from flwr.proto import heartbeat_pb2  # noqa: PLC0415

    return heartbeat_pb2


def runtime_messages() -> Any:
    """Return the protocol of the Runtime API."""
    from flwr.proto import runtime_pb2  # noqa: PLC0415

    return runtime_pb2


def object_messages() -> Any:
    """Return the part of the protocols for messages and their objects."""
    from flwr.proto import message_pb2  # noqa: PLC0415

    return message_pb2


def fab_messages() -> Any:
    """Return the part of the protocols for apps."""
    from flwr.proto import fab_pb2  # noqa: PLC0415

    return fab_pb2


def conversions() -> Any:
    """Return the module that converts to and from the protocols."""
    from flwr.common import serde  # noqa: PLC0415

    return serde


def app_builder() -> Any:
    """Return the module that makes the file of an app from its folder."""
    from flwr.cli import build  # noqa: PLC0415

    return build


def translation() -> Any:
    """Return the module that reads the requests of Flower's APIs and writes the answers."""
    from flwr.supercore.protobuf import translation as module  # noqa: PLC0415

    return module


def link_states() -> Any:
    """Return the module of a SuperLink's state."""
    from flwr.server.superlink.linkstate import sql_linkstate  # noqa: PLC0415

    return sql_linkstate


def link_state() -> type[SqlLinkState]:
    """Return the class of a SuperLink's state."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState  # noqa: PLC0415

    return SqlLinkState


def core_states() -> Any:
    """Return the module of the part of the state that SuperLink and SuperNode share."""
    from flwr.supercore.corestate import sql_corestate  # noqa: PLC0415

    return sql_corestate


def node_core_states() -> Any:
    """Return the module of that part in a SuperNode."""
    from flwr.supercore.corestate import in_memory_corestate  # noqa: PLC0415

    return in_memory_corestate


def core_state() -> type[SqlCoreState]:
    """Return the class of that part in a SuperLink."""
    from flwr.supercore.corestate.sql_corestate import SqlCoreState  # noqa: PLC0415

    return SqlCoreState


def core_tables() -> Any:
    """Return the module of the tables of that part."""
    from flwr.supercore.state.schema import corestate_models  # noqa: PLC0415

    return corestate_models


def link_tables() -> Any:
    """Return the module of the tables of the rest."""
    from flwr.supercore.state.schema import linkstate_models  # noqa: PLC0415

    return linkstate_models


def database() -> SqlMixin:
    """Return an object of the class through which states reach their database."""
    from flwr.supercore.sql_mixin import SqlMixin  # noqa: PLC0415

    class Nowhere(SqlMixin):
        def get_metadata(self) -> Any:
            """Return no tables."""

    return Nowhere(":memory:")


def node_loop() -> Any:
    """Return the module of a SuperNode's loop."""
    from flwr.supernode import start_client_internal  # noqa: PLC0415

    return start_client_internal


def node_application() -> Any:
    """Return the module of the application that a SuperNode serves its tasks with."""
    from flwr.supernode import main  # noqa: PLC0415

    return main


def node_states() -> Any:
    """Return the module of a SuperNode's state."""
    from flwr.supernode.nodestate import in_memory_nodestate  # noqa: PLC0415

    return in_memory_nodestate


def node_state() -> InMemoryNodeState:
    """Return a new state of a SuperNode: many attributes belong to the object, not to its class."""
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState  # noqa: PLC0415

    return InMemoryNodeState(object_store=object_store())


def object_store() -> InMemoryObjectStore:
    """Return a new object store of a SuperNode."""
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore  # noqa: PLC0415

    return InMemoryObjectStore()


def object_stores() -> type[ObjectStoreFactory]:
    """Return the class that makes an object store where the first is asked for."""
    from flwr.supercore.object_store import ObjectStoreFactory  # noqa: PLC0415

    return ObjectStoreFactory


def inflatables() -> Any:
    """Return the module that sends and fetches the objects of messages."""
    from flwr.supercore.inflatable import inflatable_utils  # noqa: PLC0415

    return inflatable_utils


def inflatable_objects() -> Any:
    """Return the module of what all objects of messages have in common."""
    from flwr.supercore.inflatable import inflatable_object  # noqa: PLC0415

    return inflatable_object


def array() -> type[Array]:
    """Return the class of an array in a message."""
    from flwr.app.message.array import Array  # noqa: PLC0415

    return Array


def array_chunk() -> type[ArrayChunk]:
    """Return the class of a part of an array."""
    from flwr.app.message.arraychunk import ArrayChunk  # noqa: PLC0415

    return ArrayChunk


def array_module() -> Any:
    """Return the module of that class."""
    import flwr.app.message.array  # noqa: F401, PLC0415

    return sys.modules["flwr.app.message.array"]


def fedavg() -> Any:
    """Return the module of the strategy FedAvg, with whose average many others begin."""
    import flwr.serverapp.strategy.fedavg  # noqa: F401, PLC0415

    return sys.modules["flwr.serverapp.strategy.fedavg"]


def multikrum() -> Any:
    """Return the module of the strategy MultiKrum, which averages the replies that it selects."""
    import flwr.serverapp.strategy.multikrum  # noqa: F401, PLC0415

    return sys.modules["flwr.serverapp.strategy.multikrum"]


def runtime_client() -> type[RuntimeHttpClient]:
    """Return the class of a task's client of its SuperLink or SuperNode."""
    from flwr.supercore.runtime import RuntimeHttpClient  # noqa: PLC0415

    return RuntimeHttpClient


def run_errors() -> Any:
    """Return the module of the exception for a run that is not running."""
    from flwr.supercore import run  # noqa: PLC0415

    return run


def fleet_connection() -> Any:
    """Return the module of a SuperNode's connection to its SuperLink."""
    from flwr.supernode import fleet_http_connection  # noqa: PLC0415

    return fleet_http_connection


def fleet_client() -> type[FleetHttpClient]:
    """Return the class of a SuperNode's client of its SuperLink."""
    from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: PLC0415

    return FleetHttpClient


def fleet_signatures() -> Any:
    """Return the module that signs a SuperNode's requests."""
    from flwr.supernode import node_auth_http_interceptor  # noqa: PLC0415

    return node_auth_http_interceptor
