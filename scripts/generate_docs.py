"""Generate the parts of docs/ that follow from the code: whole pages, and the marked parts of hand-written ones.

usage: python scripts/generate_docs.py [--check]

With --check nothing is written, and the exit status says whether anything is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneflower.local.clock import SteppedClock, Timing
from oneflower.local.oned.compute import VERBS, Compute
from oneflower.local.oned.methods import VERSION, xmlrpc_methods
from oneflower.local.oneflow import scheduling
from oneflower.local.oneflow.calls import oneflow_calls
from oneflower.local.oneflow.documents import Documents
from oneflower.local.oneflow.lifecycle import Lifecycle
from oneflower.local.onegate import calls as onegate
from oneflower.local.store import Store
from oneflower.opennebula import COORDINATOR, NODES, Rendering, ServiceKind, ServiceOptions, service_template
from oneflower_appliance.attributes import ATTRIBUTES
from oneflower_appliance.errors import EXIT_CODE_MEANINGS
from oneflower_appliance.metrics import METRICS
from oneflower_appliance.parameter import Level, Parameter
from oneflower_appliance.parameters import of_level
from oneflower_appliance.removed import REMOVED
from oneflower_appliance.use_cases import FRAMEWORKS, USE_CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oneflower.local.wire import Call

DOCS = Path(__file__).parent.parent / "docs"
NOTE = "<!-- Written by `make docs` from the code. Do not edit. -->\n"
INTRODUCTION = """# Context variables

This page lists every variable, by the level at which the service template asks for it. Set a variable with
`oneflower up --set NAME=VALUE`, or in [the form on OpenNebula](sunstone.md) if that asks for it. All of them are
optional. The client checks them before it sends a request. The appliance checks them again when a machine boots. Both
report all errors at once.

There is no variable for MLflow or TensorBoard: [no machine sends anything to them](see-it.md#mlflow-and-tensorboard).
`oneflower track` sends what the SuperLink records.
"""
GONE = """## Removed

Earlier releases listed these variables. None of them ever had an effect. `--set` refuses them. A machine
whose context still has one, from an older template, boots and says so in its log.

"""
RULES = """## Frameworks

Machines with `ML_FRAMEWORK` have these packages, and what they need. An app may count on them. Pre-built apps train
with the base of a framework if it has one.

{frameworks}
## Rules between variables

- `FL_MIN_AVAILABLE_CLIENTS` is at least `FL_MIN_FIT_CLIENTS` and `FL_MIN_EVALUATE_CLIENTS`, and at most the `min_vms`
  of the role `supernode`.
- Krum and MultiKrum need `FL_MIN_AVAILABLE_CLIENTS >= 2 f + 3`, Bulyan `>= 4 f + 3`, where f is `FL_NUM_MALICIOUS`.
- `FL_SSL_CA_CERTFILE`, `FL_SSL_CERTFILE` and `FL_SSL_KEYFILE` are given together or not at all, and must form a
  chain. On a SuperNode, `FL_SSL_CA_CERTFILE` alone is the CA to trust.
- `FL_SUPERNODE_AUTH` needs TLS: if `FL_TLS_ENABLED` is NO, set `FL_SUPERNODE_AUTH` to NO as well.
- `ML_FRAMEWORK` must be a framework that `FL_USE_CASE` supports, and `FL_MODEL` one of its models:
{use_cases}
- With `ML_FRAMEWORK=xgboost`, a pre-built app needs `FL_STRATEGY=FedXgbBagging` or `FedXgbCyclic`, and with `lightgbm`
  `FedXgbCyclic`. No other framework has these two, and they need `FL_PRIVACY=none`.
- `FL_DP_CLIPPING=adaptive` works only with `FL_PRIVACY=dp-central`.
- `FL_SECURE_AGGREGATION=YES` needs `FL_MIN_FIT_CLIENTS` of at least 3, a strategy of the mean, and
  `FL_DP_CLIPPING=fixed`.
- `FL_METRICS_PORT` is another port than those of `FL_FLEET_API_ADDRESS` and `FL_CONTROL_API_ADDRESS`.
- A variable is ignored if it belongs to another strategy, or to privacy, checkpoints or GPUs when these are off. One
  line says so.
"""
AGENT_CODES = """
`oneflower-agent status` exits with 0 if the machine is done or degraded, and with 7 otherwise. `oneflower-agent check`
exits with 9 if something keeps the machine from taking part. The agent itself exits with 75 if restarting it may help,
and with 78 if its settings must be changed first.
"""
PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _use_cases() -> str:
    lines = []
    for name, use_case in USE_CASES.items():
        models = "any" if use_case.models is None else ", ".join(use_case.models) or "no choice: it has one model"
        lines.append(f"  - {name}: frameworks {', '.join(use_case.frameworks)}; models {models}")
    return "\n".join(lines)


def _frameworks() -> str:
    rows = [
        (f"`{name}`", found.title, ", ".join(found.packages), f"`{found.base}`" if found.base else "none")
        for name, found in FRAMEWORKS.items()
    ]
    return table(("`ML_FRAMEWORK`", "framework", "packages", "base"), rows)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def parameter_rows(parameters: list[Parameter]) -> list[tuple[str, ...]]:
    """Return the rows of the reference."""
    return [
        (
            f"`{p.name}`",
            str(p.kind),
            f"`{p.default}`" if p.default else "empty",
            p.expects,
            f"{p.meaning}.",
        )
        for p in parameters
    ]


def parameters_page() -> str:
    """Return docs/parameters.md."""
    heads = {
        Level.SERVICE: "These are for the whole federation: both roles must have the same values.",
        Level.SUPERLINK: "These are for the role `superlink`: only the coordinator uses them.",
        Level.SUPERNODE: "These are for the role `supernode`: only the training nodes use them.",
    }
    parts = [
        NOTE,
        INTRODUCTION,
    ]
    for level, head in heads.items():
        rows = parameter_rows(of_level(level))
        parts.append(f"## {level}\n\n{head}\n\n" + table(("variable", "type", "default", "expects", "meaning"), rows))
    parts.append(RULES.format(use_cases=_use_cases(), frameworks=_frameworks()))
    parts.append(GONE + table(("variable", "why"), [(f"`{name}`", f"{why}.") for name, why in REMOVED.items()]))
    return "\n".join(parts)


def form_part(kind: ServiceKind) -> str:
    """Return the groups of the form of a kind, each with its fields."""
    parts = []
    for name, title, text in kind.form_groups():
        rows = [
            (
                field.label or parameter.meaning,
                ", ".join(parameter.options) or {"boolean": "a switch"}.get(parameter.kind, parameter.expects),
                parameter.default or "empty",
                f"`{parameter.name}`",
            )
            for field, parameter in kind.form_fields()
            if field.group.name == name
        ]
        parts.append(f"### {title}\n\n{text}\n\n" + table(("field", "values", "default", "variable"), rows))
    return "\n".join(parts)


def attributes_table() -> str:
    """Return the attributes that virtual machines publish."""
    rows = [(f"`{a.name}`", str(a.publisher), str(a.coding), f"{a.meaning}.") for a in ATTRIBUTES.values()]
    return table(("attribute", "published by", "written", "meaning"), rows)


def metrics_table() -> str:
    """Return the metrics that machines export."""
    rows = [
        (f"`{metric.name}`", str(metric.kind), ", ".join(metric.labels), ", ".join(metric.roles), metric.help)
        for metric in METRICS.values()
    ]
    return table(("metric", "type", "labels", "role", "meaning"), rows)


def exit_codes_page() -> str:
    """Return docs/exit-codes.md."""
    rows = [(str(int(code)), code.name, meaning) for code, meaning in EXIT_CODE_MEANINGS.items()]
    return (
        f"{NOTE}\n# Exit codes\n\n`oneflower` exits with one of these:\n\n"
        + table(("code", "name", "meaning"), rows)
        + AGENT_CODES
    )


COVERAGE = f"""# What the local cloud implements

This page lists every route and action of OneFlow and OneGate {VERSION}. It is generated from the tables that the
servers use. A call that is not implemented answers 501 and says so. [local-cloud.md](local-cloud.md) says how closely
the answers match those of OpenNebula.
"""


XMLRPC = f"""## XML-RPC

The methods of oned {VERSION} that are about what a federation is made of, and who may do what with it. Users, groups,
permissions, locks and ACL rules count as they do there. There is one host, one cluster and one zone. Nothing is
implemented of {{}}.
"""
_SHARED = "chmod chown rename"
METHODS = {
    "vm": f"{_SHARED} lock unlock action allocate attach attachnic attachpci attachsg backup backupcancel cancelexec "
    "deploy detach detachnic detachpci detachsg diskresize disksaveas disksnapshotcreate disksnapshotdelete "
    "disksnapshotrename disksnapshotrevert exec info migrate monitoring recover resize restore retryexec schedadd "
    "scheddelete schedupdate snapshotcreate snapshotdelete snapshotrevert update updateconf updatenic vmgroupadd "
    "vmgroupdel",
    "vmpool": "accounting calculateshowback info infoextended infoset monitoring showback",
    "template": f"{_SHARED} lock unlock allocate clone delete info instantiate update",
    "templatepool": "info",
    "image": f"{_SHARED} lock unlock allocate chtype clone delete enable info persistent restore snapshotdelete "
    "snapshotflatten snapshotrevert update",
    "imagepool": "info",
    "vn": f"{_SHARED} lock unlock allocate delete hold info recover release reserve update",
    "vnpool": "info",
    "datastore": f"{_SHARED} allocate delete enable info update",
    "datastorepool": "info",
    "host": "allocate delete info monitoring rename status update",
    "hostpool": "info monitoring",
    "cluster": "adddatastore addhost addvnet allocate deldatastore delete delhost delvnet info optimize plandelete "
    "planexecute rename update",
    "clusterpool": "info",
    "zone": "addserver allocate delete delserver enable fedreplicate info raftstatus rename replicate resetserver "
    "update updatedb voterequest",
    "zonepool": "info",
    "user": "addgroup allocate chauth chgrp delete delgroup enable info login passwd quota update",
    "userpool": "info",
    "userquota": "info update",
    "group": "addadmin allocate deladmin delete info quota update vlan",
    "grouppool": "info",
    "groupquota": "info update",
    "acl": "addrule delrule info",
    "document": f"{_SHARED} lock unlock allocate clone delete info update",
    "documentpool": "info",
    "system": "config sql sqlquery version",
}
_NOTHING_OF = (
    "virtual routers, security groups, VM groups, network templates, marketplaces, backup jobs, hooks and virtual data "
    "centers"
)


def methods_rows(ours: set[str]) -> Iterator[tuple[str, ...]]:
    """Return a row for each kind of object: which of its methods there are here, and which only there."""
    known = {f"one.{kind}.{name}" for kind, names in METHODS.items() for name in names.split()}
    if unknown := ours - known:
        raise ValueError(f"oned has no {', '.join(sorted(unknown))}")
    for kind, names in METHODS.items():
        here = {name: f"one.{kind}.{name}" in ours for name in sorted(names.split())}
        columns = (", ".join(f"`{name}`" for name in here if here[name] is wanted) for wanted in (True, False))
        yield (f"`one.{kind}.`", *columns)


def calls_table(calls: list[Call]) -> str:
    """Return a server's routes."""
    rows = [(f"`{call.method} {call.path}`", "yes" if call.handler else "no", call.note) for call in calls]
    return table(("route", "implemented", ""), rows)


def coverage_page() -> str:
    """Return docs/coverage.md."""
    store, clock = Store(Path(":memory:")), SteppedClock()
    compute, documents = Compute(store, clock, Timing(), ""), Documents(store, clock)
    cloud = (documents, Lifecycle(documents, compute), compute)  # no call is made
    documents = [(name, "yes", "") for name in ("`chown`", "`chgrp`", "`chmod`", "`rename`")]
    planned = [(f"`{name}`", _act(name), "as a scheduled action of each VM") for name in sorted(scheduling.ACTIONS)]
    service = [("`recover`", "yes", "also with `delete`"), ("`release`", "yes", "the service's own"), *documents]
    template = [
        ("`instantiate`", "yes", "not roles of type vr, nor networks that are created with the service"),
        ("`clone`", "yes", "also recursive"),
        ("`update`", "yes", "with `template_json`; not with `template_raw`"),
        *documents,
    ]
    guests = [(f"`{name}`", _guest_act(name), "") for name in sorted(onegate.ACTIONS)]
    ours = set(xmlrpc_methods(compute))
    columns = ("action", "implemented", "")
    return "\n".join([
        NOTE, COVERAGE,
        "## OneFlow\n", calls_table(oneflow_calls(*cloud)),
        "### Actions on a service\n", table(columns, [*service, *[row for row in planned if row[0] != "`release`"]]),
        "### Actions on a role\n", table(columns, planned),
        "### Actions on the roles of a service\n",
        table(columns, [("`add_role`", "yes", ""), ("`remove_role`", "yes", "")]),
        "### Actions on a service template\n", table(columns, template),
        "## OneGate\n", calls_table(onegate.OneGateCalls(*cloud).table()),
        "### Actions on a VM\n", table(columns, guests),
        XMLRPC.format(_NOTHING_OF), table(("methods", "implemented", "not implemented"), list(methods_rows(ours))),
    ])  # fmt: skip


def _act(name: str) -> str:
    return "yes" if name.removesuffix("-hard") in VERBS else "no"


def _guest_act(name: str) -> str:
    if name in onegate.FORBIDDEN:
        return "refused, as the real one refuses it by default"
    return "yes" if onegate.LEGACY.get(name, name).removesuffix("-hard") in VERBS else "no"


def _block(content: Any) -> str:
    return f"```json\n{json.dumps(content, indent=2)}\n```\n"


def parts() -> dict[str, str]:
    """Return the generated parts by name."""
    seven = service_template(ServiceOptions(template_ids={COORDINATOR: 7, NODES: 8}))
    six = service_template(ServiceOptions(compat=6, template_ids={COORDINATOR: 7, NODES: 8}))
    form = service_template(ServiceOptions(template_ids={COORDINATOR: 7, NODES: 8}, rendering=Rendering.FORM))
    levels = [(str(level), ", ".join(f"`{p.name}`" for p in of_level(level))) for level in Level]
    return {
        "attributes": attributes_table(),
        "template-7": _block(seven),
        "template-6": _block(six),
        "template-form": _block(form),
        "form": form_part(ServiceKind.FEDERATION),
        "form-coordinator": form_part(ServiceKind.COORDINATOR),
        "form-site": form_part(ServiceKind.SITE),
        "metrics": metrics_table(),
        "levels": table(("level", "variables"), levels),
    }


def pages() -> dict[Path, str]:
    """Return every page that is generated, whole or in part, as it should be."""
    wanted = {
        DOCS / "parameters.md": parameters_page(),
        DOCS / "exit-codes.md": exit_codes_page(),
        DOCS / "coverage.md": coverage_page(),
    }
    available = parts()
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path not in wanted and PART.search(text):
            wanted[path] = PART.sub(lambda match: match[1] + available[match["name"]] + match[3], text)
    return wanted


def main() -> None:
    """Write, or check, every generated page."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.name} is stale: run `make docs`")
        sys.exit(bool(stale))
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(stale)} pages changed")


if __name__ == "__main__":
    main()
