"""What this appliance does inside Flower's processes beyond what stock Flower does, feature by feature.

Each feature depends on names in Flower that no release promises to keep; `places` lists them. They are checked before
the feature is used. If a name is missing, the feature is off, stock Flower runs, and one line says so.

Three features are never off. Without two of them the appliance is not safe: `FRONT_DOOR` keeps the Control API, which
runs anybody's code on every node, away from the network. `NODE_DOOR` keeps other users of a SuperNode's machine away
from its tasks, their apps and their models. Without `NODE_ID` nobody knows whether the SuperLink hears from a
SuperNode. `SITE_POLICY` counts where a site has a policy: a SuperNode that could not keep to it does not start.
`SITE_CHOICE` counts where sites were chosen: no run starts that would not keep to that. If a name that these need is
missing, Flower does not start.
"""

from __future__ import annotations

from enum import Enum


class Feature(Enum):
    """A feature. Its value says what is off if a name that it needs is missing."""

    # In a SuperLink.
    FRONT_DOOR = "The front door of the SuperLink"
    API = "The API next to Flower's own"
    FORGET_LOST_DELIVERIES = "Forgetting messages that a restarted SuperNode had not answered"
    REDELIVERY = "Giving a message again whose delivery was lost on the way"
    STUCK_NODES = "Noticing SuperNodes that are stuck in a round that has ended"
    SITE_CHOICE = "Choosing the sites of a run (FL_SITES, FL_MIN_SITES)"
    LEAVING = "Sending nothing more to SuperNodes that are about to leave"
    SUBMISSION = "Starting a run of an app that a client sends"
    RETENTION = "Forgetting runs that have ended"
    SUPERLINK_SUPEREXEC = "Starting the SuperExec of a SuperLink again when it dies (FL_EXECUTION=stock)"
    WARM_SUPERLINK = "Warm execution of ServerApps (FL_EXECUTION=warm)"
    LIMIT_TASK_CLEANUP = "Looking for expired tasks only once a second"
    HEARTBEATS = "Recording the heartbeats of all SuperNodes together"
    WORK = "Looking for all SuperNodes together whether they work for nobody"
    OBJECT_STORE = "Keeping the objects of messages out of the database"
    SUPERLINK_BUNDLES = "Taking and giving the objects of a message in bundles, in the SuperLink"
    DEAD_SERVERAPPS = "Failing a run as soon as its ServerApp dies"

    # In a SuperNode.
    NODE_DOOR = "The door of the SuperNode"
    SITE_POLICY = "Keeping to the policy of the site (FL_SITE_POLICY)"
    TELL_HELD = "Telling the SuperLink that a run waits for the approval of this site"
    NODE_ID = "Learning which id the SuperLink gave this SuperNode"
    HEARTBEAT_REPORT = "Telling the agent that the SuperLink hears from this SuperNode, so that it need not ask"
    SPARED_HEARTBEATS = "Sending no heartbeats while a request for messages waits"
    DRAINING = "Ending the task of a SuperNode before it stops (FL_DRAIN_TIMEOUT)"
    KEY_ORDER = "Making another key when the operator asks for it (oneflower rotate --node-keys)"
    ANSWER_IN_TURN = "Sending each reply in its own turn"
    FORGET_ENDED_RUNS = "Forgetting runs that have ended, in a SuperNode"
    CLOSE_SESSION = "Closing the session of an earlier process of this SuperNode"
    CA_FOLLOWING = "Trusting another CA of the SuperLink without a new start"
    PATIENCE = "Letting a SuperNode be silent for longer (FL_OFFLINE_AFTER)"
    CONNECTIONS = "Keeping connections to the SuperLink, and noticing dead ones early"
    PROXY = "Reaching the SuperLink through a proxy (FL_PROXY)"
    SUPERNODE_SUPEREXEC = "Starting the SuperExec of a SuperNode again when it dies (FL_EXECUTION=stock)"
    WARM_SUPERNODE = "Warm execution of ClientApps (FL_EXECUTION=warm)"
    SUPEREXEC_ON_DEMAND = "Having a SuperExec only while there is work (FL_PROFILE=edge)"
    DEAD_CLIENTAPPS = "Answering as soon as a ClientApp dies"
    WHOLE_REPLIES = "Sending a reply together with its objects, from a SuperNode"
    DOWNLOADS = "Receiving bundles without copying them several times"
    NODE_QUESTIONS = "Holding requests of ClientApps until they have an answer"
    END_WITH_RUN = "Ending a ClientApp together with its run"

    # In both.
    HELD_QUESTIONS = "Holding requests until they have an answer"
    BUNDLES = "Sending the objects of a message in bundles"
    WHOLE_MESSAGES = "Sending a message together with its objects"
    SHORTCUTS = "The shortcut past Flower's middlewares"
    DIRECT_CALLS = "Answering Flower's calls without its web framework"
    LOG_LEVEL = "The log level of Flower (FL_LOG_LEVEL)"

    # In the process of a task.
    WHOLE_FROM_SERVERAPP = "Sending messages together with their objects, from a ServerApp"
    WHOLE_FROM_CLIENTAPP = "Sending a reply together with its objects, from a ClientApp"
    ARRAYS = "Copying the bytes of arrays only once"
    ARRAYS_IN_PLACE = "Leaving the arrays of a message in the memory in which they came"
    SUPERVISED_SERVERAPP = "Recording and supervising runs"
    SUPERVISED_LEGACY_APP = "Recording and supervising runs of apps on Flower's legacy API"
    MESSAGE_COUNTS = "Counting the messages of a ServerApp"
    LAST_LINES = "Sending the last lines of a ServerApp's log without a pause"
    REPLIES_IN_FILES = "Keeping large replies in files until they are aggregated"
    SERVERAPP_FOLDER = "A separate folder for each run's ServerApp"
    SERVERAPP_PACKAGES = "Packages that were installed for a ServerApp"
    SITE_SPENDING = "Reading what nodes say of their privacy budgets"
    WIRE_SERVERAPP = "Sending models to nodes in half as many bytes (FL_WIRE_DTYPE)"
    WIRE_CLIENTAPP = "Sending models from nodes in half as many bytes (FL_WIRE_DTYPE)"
    CLIENTAPP = "The wrapper around Flower's command for ClientApps"
    CLIENTAPP_FOLDER = "A separate folder for each run's ClientApp"
    INSTALLED_ONCE = "Unpacking the app of a run only for its first task"
    CLIENTAPP_PACKAGES = "Packages that were installed for a ClientApp"
