"""The client: one federation's life over OneFlow's REST and OpenNebula's XML-RPC, the same for both clouds."""

from oneflower.cloud.client import Cloud
from oneflower.cloud.credentials import Endpoints, opennebula_endpoints
from oneflower.cloud.federation import Federation
from oneflower.cloud.logs import Logs
from oneflower.cloud.outages import Limits
from oneflower.cloud.refused import RefusedError
from oneflower.cloud.run_result import RunResult
from oneflower.cloud.sites import SiteStatus
from oneflower.cloud.status import FederationStatus, VmStatus
from oneflower_appliance.progress import RunProgress
from oneflower_appliance.runs import RunRow

__all__ = [
    "Cloud",
    "Endpoints",
    "Federation",
    "FederationStatus",
    "Limits",
    "Logs",
    "RefusedError",
    "RunProgress",
    "RunResult",
    "RunRow",
    "SiteStatus",
    "VmStatus",
    "opennebula_endpoints",
]
