"""The client: one federation's life over OneFlow's REST and OpenNebula's XML-RPC, the same for both clouds."""

from oneflower.cloud.client import Cloud
from oneflower.cloud.credentials import Endpoints, opennebula_endpoints
from oneflower.cloud.federation import Federation, FederationStatus, VmStatus
from oneflower.cloud.runs import RunResult, RunRow

__all__ = [
    "Cloud",
    "Endpoints",
    "Federation",
    "FederationStatus",
    "RunResult",
    "RunRow",
    "VmStatus",
    "opennebula_endpoints",
]
