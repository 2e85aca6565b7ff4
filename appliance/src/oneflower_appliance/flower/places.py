"""Every name in Flower that this appliance uses and that no release promises to keep, by feature.

A *place* is one of Flower's modules, classes or objects (`internals`) and a name in it. Before a feature is used, its
places are checked. That reveals a release that moved one.

usage: if have(Feature.X): ...    for a feature that can be off
       demand(Feature.X)          for one that cannot
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from oneflower_appliance import features_off
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.flower import internals
from oneflower_appliance.flower.features import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Place:
    """A name in Flower, and the function that returns its owner. With `parameter`, a parameter of that function."""

    owner: Callable[[], Any]
    name: str
    parameter: str = ""

    def __str__(self) -> str:
        return f"{self._where}.{self.name}" + (f"({self.parameter})" if self.parameter else "")

    @property
    def _where(self) -> str:
        try:
            found = self.owner()
        except (AttributeError, ImportError, KeyError, TypeError):
            return self.owner.__name__  # our own name for it, because Flower no longer has it
        if isinstance(found, ModuleType):
            return found.__name__
        kind = found if isinstance(found, type) else type(found)
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def is_there(self) -> bool:
        """Whether the Flower installed here has it."""
        try:
            found = getattr(self.owner(), self.name)
            return not self.parameter or self.parameter in inspect.signature(found).parameters
        except (AttributeError, ImportError, KeyError, TypeError):
            return False


def _at(owner: Callable[[], Any], *names: str) -> tuple[Place, ...]:
    return tuple(Place(owner, name) for name in names)


def _takes(owner: Callable[[], Any], function: str, *parameters: str) -> tuple[Place, ...]:
    return tuple(Place(owner, function, parameter) for parameter in parameters)


_PULL = _takes(internals.node_loop, "_pull_and_store_message", "state", "object_store", "get_run")
_PUSH = _takes(internals.node_loop, "_push_messages", "state", "object_store")
_CONNECTIONS = (
    *_takes(internals.fleet_client, "__init__", "base_url", "verify"),
    *_takes(internals.http_client, "__init__", "timeout"),
)
_IN_TURN = (
    *_PULL,
    *_takes(internals.node_loop, "_pull_and_store_message", "receive"),
    *_PUSH,
    *_takes(internals.node_loop, "_push_messages", "send", "push_object"),
    *_takes(internals.node_loop, "_insert_message", "msg", "state", "store"),
    *_at(internals.run_errors, "RunNotRunningException"),
)
_ANSWER_FOR = (
    *_at(internals.node_states, "CLIENT_APP_CRASHED_ERROR"),
    *_at(internals.node_state, "_store_error_replies", "get_node_id", "lock_msg_store", "msg_store"),
)
_SUPEREXEC = (
    *_at(internals.superexec_loop, "get_executor", "start_parent_process_monitor", "time"),
    *_at(internals.superexec_command, "flower_superexec"),
    *_at(internals.executors, "ExecutionSpec"),
    *_at(internals.launch_result, "accepted"),
    *_at(internals.core_constants, "TASK_TYPE_TO_COMMAND", "TASK_TYPE_TO_APPIO_API_ADDRESS_ARG"),
    *_at(internals.exit_handlers, "registered_exit_handlers"),
)
_IN_PLACE = (
    *_takes(internals.inflatables, "inflate_object_from_contents", "object_id", "object_contents", "objects",
            "keep_object_contents"),
    *_at(internals.inflatable_objects, "get_object_type_from_object_content", "get_object_body",
         "get_object_children_ids_from_object_content", "get_object_id"),
    *_at(internals.array, "numpy"),
    *_takes(internals.array_chunk, "__init__", "data"),
    *_at(internals.array_module, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"),
)  # fmt: skip
_START_GRID = ("grid", "server", "config", "strategy", "client_manager")
CONTROL_LAYERS = (
    "ControlSensitiveResponseMiddleware",
    "ControlAuthenticationMiddleware",
    "ControlLicenseMiddleware",
    "ControlEventLogMiddleware",
)
SESSIONS = (  # in which objects are expected: the methods of a state
    "start_session",
    "delete_sessions_in_run",
    "preregister_object_tree",
    "store_object",
    "get_object",
    "_cleanup_push_session",
)
FLEET_LAYERS = ("NodeAuthMiddleware", "FleetEventLogMiddleware")
TRACING_LAYER = "RuntimeTracingMiddleware"  # only in 1.41; other releases have none to leave out
_MESSAGES = (
    *_at(internals.link_states, "MessageInsModel", "MessageResModel", "select", "uint64_to_int64"),
    *_at(internals.link_state, "session"),
)

PLACES: dict[Feature, tuple[Place, ...]] = {
    Feature.FRONT_DOOR: (
        *_at(internals.superlink_command, "flower_superlink", "uvicorn"),
        *_at(internals.node_authentication, "FLEET_HTTP_PUBLIC_KEY_HEADER", "authenticate_node"),
        *_at(internals.error_catalog, "API_ERROR_MAP"),
        *_at(internals.errors, "ApiErrorCode"),
        *_at(internals.error_codes, "FLEET_SUPERNODE_REGISTRATION_DISABLED", "FLEET_NODE_ACTIVATION_FAILED"),
        *_at(internals.fleet_messages, "ActivateNodeRequest"),
        *_at(internals.link_state, "get_node_id_by_public_key"),
    ),
    Feature.API: (
        *_at(internals.control_handlers, "register_node", "start_run"),
        *_at(internals.control_messages, "RegisterNodeRequest", "StartRunRequest"),
        *_at(internals.constants, "NOOP_FLWR_AID", "NOOP_ACCOUNT_NAME"),
        *_at(internals.fab_messages, "Fab"),
        *_at(internals.conversions, "user_config_to_proto"),
        *_at(internals.app_builder, "build_fab_from_disk"),
        *_at(internals.errors, "FlowerError", "ApiErrorCode"),
        *_at(internals.error_codes, "PUBLIC_KEY_ALREADY_IN_USE"),
        *_at(internals.link_state, "get_node_info", "get_run_info", "delete_node", "stop_run", "get_task_log",
             "get_node_id_by_public_key", "deactivate_node"),
    ),
    Feature.FORGET_LOST_DELIVERIES: (
        *_MESSAGES,
        *_at(internals.link_states, "NodeModel", "NodeStatus", "int64_to_uint64"),
        *_at(internals.core_states, "ObjectPushSessionModel"),
        *_at(internals.link_state, "delete_messages", "deactivate_node", "delete_node", "_check_and_tag_offline_nodes"),
        *_takes(internals.link_state, "store_message_and_object_tree", "message", "object_tree", "session_id"),
        *_takes(internals.link_state, "activate_node", "node_id", "heartbeat_interval"),
        *_takes(internals.link_state, "_cleanup_push_session", "cleanup_messages"),
    ),
    Feature.REDELIVERY: (
        *_MESSAGES,
        *_at(internals.link_states, "update"),
        *_takes(internals.link_state, "get_message_ins", "node_id"),
        *_takes(internals.link_state, "store_message_and_object_tree", "message"),
    ),
    Feature.STUCK_NODES: (
        *_MESSAGES,
        *_at(internals.link_states, "int64_to_uint64"),
        *_at(internals.link_state, "get_run_info"),
    ),
    Feature.SITE_CHOICE: (
        *_takes(internals.link_state, "get_nodes", "run_id"),
        *_takes(internals.link_state, "store_message_ins", "message"),
        *_at(internals.constants, "SUPERLINK_NODE_ID"),
    ),
    Feature.LEAVING: (
        *_takes(internals.link_state, "get_nodes", "run_id"),
        *_takes(internals.link_state, "delete_node", "owner_aid", "node_id"),
    ),
    Feature.SUBMISSION: (
        *_takes(internals.app_builder, "build_fab_from_files", "files"),
        *_at(internals.control_handlers, "start_run"),
    ),
    Feature.RETENTION: (
        *_at(internals.core_tables, "Task", "TaskLogsTable", "TaskEvent", "TaskMessage", "TaskUsage", "Message", "Fab",
             "FederationApp", "RunConnector", "SeriesRuns", "Automation", "SeriesContext", "CompactedContext",
             "RunSeries"),
        *_at(internals.link_tables, "MessageRes", "MessageIns", "Run"),
        *_at(internals.link_state, "cleanup_run", "delete_app"),
        *_at(internals.database, "_engine"),
        *_at(internals.core_utils, "uint64_to_int64", "get_flwr_home"),
        *_at(internals.constants, "APP_DIR", "FAB_HASH_TRUNCATION"),
    ),
    Feature.SUPERLINK_SUPEREXEC: _at(internals.superlink_command, "subprocess"),
    Feature.WARM_SUPERLINK: (
        *_SUPEREXEC,
        *_at(internals.superlink_command, "subprocess"),
        *_at(internals.grid, "time"),
    ),
    Feature.LIMIT_TASK_CLEANUP: _at(internals.core_state, "_cleanup_expired_task_tokens"),
    Feature.HEARTBEATS: (
        *_at(internals.heartbeat_messages, "SendNodeHeartbeatRequest", "SendNodeHeartbeatResponse"),
        *_at(internals.fleet_messages, "PullMessagesRequest"),
        *_at(internals.run_messages, "GetRunRequest"),
        *_at(internals.constants, "HEARTBEAT_MIN_INTERVAL", "HEARTBEAT_MAX_INTERVAL", "HEARTBEAT_PATIENCE"),
        *_at(internals.link_states, "NodeModel", "NodeStatus", "update", "case", "now", "int64_to_uint64"),
        *_at(internals.link_state, "session"),
    ),
    Feature.WORK: (*_at(internals.run_messages, "GetRunRequest"), *_at(internals.link_state, "get_run_info")),
    Feature.OBJECT_STORE: (
        *_at(internals.object_stores, "store"),
        *_at(internals.object_store, "store", "lock_store", "put", "get", "delete", "clear", "preregister",
             "delete_objects_in_run"),
        *_at(internals.link_state, *SESSIONS, "_on_push_session_expired", "session", "finish_task"),
        *_takes(internals.link_state, "delete_messages", "message_ins_ids"),
        *_takes(internals.link_state, "store_object", "run_id", "session_id", "object_id", "object_content"),
        *_at(internals.link_states, "MessageInsModel", "select"),
        *_at(internals.constants, "SUPERLINK_NODE_ID"),
        *_takes(internals.link_state, "__init__", "object_store"),
        *_takes(internals.link_state, "_cleanup_push_session", "cleanup_messages"),
        *_at(internals.node_state, *SESSIONS, "_object_push_sessions", "_object_push_session_by_root",
             "_lock_object_push_sessions"),
        *_takes(internals.node_core_states, "ObjectPushSession", "run_id", "pending_object_ids"),
        *_at(internals.node_core_states, "OBJECT_PUSH_SESSION_TTL_SECONDS"),
    ),
    Feature.DEAD_SERVERAPPS: _at(internals.link_state, "get_task_by_token", "finish_task", "get_run_info"),
    Feature.NODE_DOOR: _at(internals.supernode_command, "flower_supernode", "uvicorn"),
    Feature.SITE_POLICY: (
        *_PULL,
        *_takes(internals.node_loop, "_pull_and_store_message", "receive", "get_run", "get_fab"),
        *_takes(internals.node_loop, "_insert_message", "msg", "state", "store"),
        *_PUSH,
        *_at(internals.node_loop, "FAB_VERIFICATION_ERROR", "time"),
        *_at(internals.node_states, "CLIENT_APP_CRASHED_ERROR"),
        *_at(internals.node_state, "store_message_and_object_tree", "store_message", "get_messages_legacy",
             "delete_messages"),
        *_at(internals.object_store, "preregister", "put", "get", "delete", "get_object_tree"),
        *_at(internals.inflatable_objects, "no_object_id_recompute", "iterate_object_tree", "get_object_tree",
             "get_all_nested_objects", "get_object_body", "get_object_type_from_object_content",
             "get_object_children_ids_from_object_content"),
        *_takes(internals.inflatables, "inflate_object_from_contents", "object_id", "object_contents"),
        *_at(internals.core_constants, "TaskType"),
        *_at(internals.clientapp_command, "flwr_clientapp"),
        *_at(internals.run_errors, "RunNotRunningException"),
        *_ANSWER_FOR,
        *_at(internals.node_state, "get_task_by_token", "finish_task"),
    ),
    Feature.TELL_HELD: _takes(internals.http_client, "__init__", "interceptors"),
    Feature.NODE_ID: _at(internals.node_state, "set_node_id"),
    Feature.HEARTBEAT_REPORT: (
        *_takes(internals.fleet_client, "SendNodeHeartbeat", "request"),
        *_takes(internals.fleet_client, "PullMessages", "request"),
    ),
    Feature.SPARED_HEARTBEATS: (
        *_takes(internals.fleet_client, "SendNodeHeartbeat", "request"),
        *_takes(internals.http_client, "__init__", "interceptors"),
        *_at(internals.heartbeat_messages, "SendNodeHeartbeatResponse"),
        *_at(internals.fleet_connection, "HEARTBEAT_DEFAULT_INTERVAL"),
    ),
    Feature.DRAINING: (
        *_PULL, *_takes(internals.fleet_client, "SendNodeHeartbeat", "request"),
        *_takes(internals.http_client, "__init__", "interceptors"),
        *_at(internals.heartbeat_messages, "SendNodeHeartbeatRequest"),
        *_at(internals.fleet_connection, "HEARTBEAT_DEFAULT_INTERVAL"),
    ),
    Feature.KEY_ORDER: _takes(internals.http_client, "__init__", "interceptors"),
    Feature.ANSWER_IN_TURN: (
        *_IN_TURN,
        *_ANSWER_FOR,
        *_at(internals.node_state, "get_tasks"),
        *_at(internals.object_store, "get"),
    ),
    Feature.FORGET_ENDED_RUNS: (
        *_PULL,
        *_at(internals.run_errors, "RunNotRunningException"),
        *_at(internals.object_store, "delete_objects_in_run"),
        *_at(internals.node_state, "msg_store", "lock_msg_store", "run_store", "lock_run_store", "task_store",
             "lock_task_store", "task_logs", "task_token_store", "task_token_to_task_id", "task_event_store",
             "lock_task_event_store", "fab_store", "lock_fab_store", "run_series_context_store",
             "lock_run_series_context_store"),
        *_at(internals.core_utils, "get_flwr_home"),
        *_at(internals.constants, "APP_DIR", "FAB_HASH_TRUNCATION"),
    ),
    Feature.CLOSE_SESSION: (
        *_at(internals.fleet_client, "from_server_address", "DeactivateNode"),
        *_at(internals.fleet_signatures, "NodeAuthHttpInterceptor"),
        *_at(internals.fleet_messages, "DeactivateNodeRequest"),
    ),
    Feature.SUPERNODE_SUPEREXEC: _at(internals.node_loop, "subprocess"),
    Feature.WARM_SUPERNODE: (*_SUPEREXEC, *_at(internals.node_loop, "subprocess")),
    Feature.SUPEREXEC_ON_DEMAND: _takes(internals.node_loop, "_pull_and_store_message", "receive"),
    Feature.DEAD_CLIENTAPPS: (*_PULL, *_ANSWER_FOR, *_at(internals.node_state, "get_task_by_token", "finish_task")),
    Feature.END_WITH_RUN: (
        *_PULL,
        *_PUSH,
        *_ANSWER_FOR,
        *_at(internals.node_state, "get_messages_legacy", "get_tasks", "finish_task"),
        *_at(internals.run_errors, "RunNotRunningException"),
    ),
    Feature.HELD_QUESTIONS: (
        *_takes(internals.http_client, "__init__", "interceptors"),
        *_at(internals.runtime_messages, "AcquireTaskResponse", "PullAppMessagesResponse"),
        *_at(internals.fleet_messages, "PullMessagesResponse"),
        *_at(internals.object_messages, "PullObjectRequest", "PullObjectResponse", "PushObjectRequest"),
    ),
    Feature.BUNDLES: (
        *_at(internals.object_store, "store", "lock_store", "run_objects_mapping", "put"),
        *_takes(internals.inflatables, "pull_objects", "object_ids", "pull_object_fn"),
        *_takes(internals.inflatables, "push_object_contents_from_iterable", "object_contents", "push_object_fn"),
        *_at(internals.inflatables, "ObjectUnavailableError", "ObjectPullError"),
        *_takes(internals.http_client, "_unary_unary", "path", "rpc_method", "request", "response_type"),
        *_at(internals.fleet_client, "PullObject", "PushObject"),
        *_at(internals.runtime_client, "PullObject", "PushObject"),
        *_at(internals.object_messages, "PullObjectRequest", "PullObjectResponse", "PushObjectResponse"),
        *_at(internals.core_constants, "TASK_TOKEN_HEADER"),
        *_at(internals.node_state, "store_object", "get_object", "get_task_by_token"),
    ),
    Feature.SUPERLINK_BUNDLES: (
        *_at(internals.link_state, "store_object", "get_object", "get_task_by_token", "store_traffic"),
        *_at(internals.link_states, "MessageInsModel", "select", "uint64_to_int64"),
    ),
    Feature.WHOLE_MESSAGES: (
        *_takes(internals.http_client, "_unary_unary", "path", "request", "response_type"),
        *_at(internals.fleet_messages, "PullMessagesRequest", "PullMessagesResponse", "PushMessagesRequest",
             "PushMessagesResponse"),
        *_at(internals.runtime_messages, "PullAppMessagesRequest", "PullAppMessagesResponse", "PushAppMessagesRequest",
             "PushAppMessagesResponse"),
        *_at(internals.object_messages, "PullObjectRequest", "PushObjectResponse", "ConfirmMessageReceivedRequest"),
        *_at(internals.object_store, "store", "lock_store"),
        *_at(internals.constants, "SUPERLINK_NODE_ID"),
    ),
    Feature.WHOLE_REPLIES: _PUSH,
    Feature.WHOLE_FROM_SERVERAPP: (
        *_at(internals.grid, "get_object_tree", "get_all_nested_objects"),
        *_at(internals.inflatable_objects, "get_all_nested_objects"),
    ),
    Feature.WHOLE_FROM_CLIENTAPP: (
        *_at(internals.clientapp_task, "get_object_tree", "get_all_nested_objects"),
        *_at(internals.inflatable_objects, "get_all_nested_objects"),
    ),
    Feature.ARRAYS: (
        *_at(internals.array, "inflate", "slice_array", "numpy"),
        *_takes(internals.array, "inflate", "object_content", "children"),
        *_takes(internals.array, "from_numpy_ndarray", "ndarray"),
        *_at(internals.array_chunk, "inflate", "deflate", "object_id"),
        *_takes(internals.array_chunk, "__init__", "data"),
        *_takes(internals.inflatable_objects, "add_header_to_object_body", "object_body", "obj"),
        *_at(internals.inflatable_objects, "HEAD_BODY_DIVIDER", "get_object_type_from_object_content",
             "get_object_children_ids_from_object_content", "get_object_body"),
    ),
    Feature.CA_FOLLOWING: _takes(internals.fleet_client, "__init__", "verify"),
    Feature.PATIENCE: (
        *_at(internals.fleet_connection, "HEARTBEAT_DEFAULT_INTERVAL"),
        *_at(internals.constants, "HEARTBEAT_PATIENCE"),
    ),
    Feature.CONNECTIONS: _CONNECTIONS,
    Feature.PROXY: _CONNECTIONS,
    Feature.DOWNLOADS: _takes(internals.fleet_client, "__init__", "base_url", "verify"),
    Feature.NODE_QUESTIONS: (
        *_PULL,
        *_takes(internals.node_loop, "_pull_and_store_message", "confirm_message_received"),
        *_at(internals.node_loop, "time"),
        *_takes(internals.node_loop, "register_signal_handlers", "exit_handlers"),
        *_at(internals.node_application, "create_app"),
    ),
    Feature.SHORTCUTS: (
        *_at(internals.control_middlewares, *CONTROL_LAYERS),
        *_at(internals.node_authentication, "NodeAuthMiddleware"),
        *_at(internals.fleet_middlewares, "FleetEventLogMiddleware"),
    ),
    Feature.DIRECT_CALLS: _at(internals.translation, "PROTOBUF_REQUEST_TYPES"),
    Feature.LOG_LEVEL: _at(internals.flower_log, "console_handler"),
    Feature.SUPERVISED_SERVERAPP: _at(internals.serverapp_command, "flwr_serverapp"),
    Feature.SUPERVISED_LEGACY_APP: (
        *_takes(internals.serverapps, "start_grid", *_START_GRID),
        *_takes(internals.legacy_servers, "start_grid", *_START_GRID),
        *_takes(internals.legacy_workflow, "__call__", "grid", "context"),
        *_at(internals.legacy_api, "LegacyContext", "Server", "ServerConfig", "SimpleClientManager"),
        *_at(internals.legacy_strategies, "Strategy"),
        *_at(internals.legacy_records, "Parameters", "ndarray_to_bytes"),
        *_at(internals.grid_class, "push_messages", "pull_messages", "send_and_receive"),
        *_at(internals.grid, "time"),
    ),
    Feature.MESSAGE_COUNTS: (
        *_takes(internals.serverapp_task, "run_", "grid"),
        *_at(internals.grid_class, "push_messages", "pull_messages"),
    ),
    Feature.LAST_LINES: (
        *_takes(internals.serverapp_task, "start_log_uploader", "log_queue"),
        *_takes(internals.serverapp_task, "flush_logs", "log_queue"),
        *_at(internals.flower_log, "time"),
    ),
    Feature.ARRAYS_IN_PLACE: _IN_PLACE,
    Feature.REPLIES_IN_FILES: (
        *_IN_PLACE,
        *_takes(internals.grid, "inflate_object_from_contents", "object_id", "object_contents", "objects"),
        *_takes(internals.fedavg, "aggregate_arrayrecords", "records", "weighting_metric_name"),
        *_takes(internals.multikrum, "aggregate_arrayrecords", "records", "weighting_metric_name"),
    ),
    Feature.SITE_SPENDING: _at(internals.grid_class, "pull_messages"),
    Feature.WIRE_SERVERAPP: (
        *_takes(internals.grid_class, "push_messages", "messages"),
        *_takes(internals.grid_class, "pull_messages", "message_ids"),
    ),
    Feature.WIRE_CLIENTAPP: (
        *_takes(internals.clientapp_task, "push_message", "client", "message", "context"),
        *_at(internals.clientapp_task, "pull_task_input"),
    ),
    Feature.SERVERAPP_FOLDER: (*_at(internals.grid_class, "set_run"), *_at(internals.serverapp_task, "run_")),
    Feature.SERVERAPP_PACKAGES: _at(internals.serverapp_task, "install_from_fab"),
    Feature.CLIENTAPP: _at(internals.clientapp_command, "flwr_clientapp"),
    Feature.CLIENTAPP_FOLDER: _at(internals.clientapp_task, "pull_task_input"),
    Feature.INSTALLED_ONCE: (
        *_takes(internals.clientapp_task, "install_from_fab", "fab_file"),
        *_at(internals.clientapp_task, "pull_task_input"),
    ),
    Feature.CLIENTAPP_PACKAGES: _at(internals.clientapp_task, "install_from_fab"),
}  # fmt: skip

said: set[Feature] = set()  # the features of which this process has said that they are off


def missing(feature: Feature) -> str:
    """Return the place of a feature that the installed Flower does not have, or nothing if it has all."""
    return next((str(place) for place in PLACES[feature] if not place.is_there), "")


def have(feature: Feature) -> bool:
    """Whether a feature can be used here. If it cannot, one line says so, once."""
    reason = missing(feature)
    if reason and feature not in said:
        said.add(feature)
        line = sentence(feature, reason)
        if features_off.report(feature.name, line):
            log.warning("%s", line)
    return not reason


def demand(*features: Feature) -> None:
    """Raise `OneflowerError` if a feature that is required for a start cannot be used here."""
    for feature in features:
        if reason := missing(feature):
            raise unsafe(feature, reason)


@dataclass(frozen=True)
class ApplicationState:
    """The parts that are taken from a SuperLink's application."""

    linkstate_factory: Any
    enable_supernode_auth: bool


def application_state(app: Any) -> ApplicationState:
    """Return what a SuperLink's application was made with. Raises `OneflowerError`: the front door needs it."""
    names = tuple(ApplicationState.__annotations__)
    if lost := [name for name in names if not hasattr(app.state, name)]:
        raise unsafe(Feature.FRONT_DOOR, f"application.state.{lost[0]}")
    return ApplicationState(*(getattr(app.state, name) for name in names))


def unsafe(feature: Feature, reason: str) -> OneflowerError:
    """Return the error that a feature which is required cannot be used here."""
    return OneflowerError(
        f"Flower is not started, because it would not be safe. {feature.value} needs what this release of Flower does "
        f"not have: {reason}.",
        "Use a release of Flower that this appliance is tested with (FLOWER_VERSION).",
        ExitCode.ENVIRONMENT,
    )


def sentence(feature: Feature, reason: str) -> str:
    """Return the line that says that a feature is off, and why."""
    return f"{feature.value} is off, because this release of Flower has no {reason}."
