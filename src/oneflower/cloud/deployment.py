"""Starts the deployment of a federation under a unique name, and removes it if that fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oneflower.cloud.answer import Answer
from oneflower.cloud.audit import audited
from oneflower.cloud.deletion import roll_back
from oneflower.cloud.names import check_name
from oneflower.cloud.refused import UnreachableError
from oneflower.cloud.service import Service
from oneflower.events import ConsoleLine, Note, Step, StepEnded, ignore
from oneflower.opennebula import ServiceKind, defaults_of, kind_of, merge_template
from oneflower.printable import counted
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.log_lines import parse, text_of
from oneflower_appliance.settings import InvalidParametersError, ignored, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.scaling import Size
    from oneflower.events import Notify
    from oneflower_appliance.settings import Bounds
    from oneflower_appliance.values import Settings

_LINES = 15  # of the console of a machine that failed


@dataclass(frozen=True)
class Checked:
    """A deployment that may begin: the service template, its body, all settings, and remarks on them for a person."""

    template: int
    body: dict[str, Any]
    kind: ServiceKind
    settings: Settings
    bounds: Bounds | None
    remarks: tuple[str, ...]


def defaults(cloud: Cloud) -> dict[str, str]:
    """Return the defaults of all variables: those of the service template, as an operator registered it."""
    return defaults_of(cloud.oneflow.service_template(cloud.surroundings.template(cloud)))


def check(cloud: Cloud, name: str | None, settings: Mapping[str, str], size: Size) -> Checked:
    """Check everything that can be checked before anything starts. Without a name, the name is not checked.

    Raises `OneflowerError` when the name is taken, or with every setting that is not valid.
    """
    if name is not None:
        check_name(name)
        _check_free(cloud, name)
    template = cloud.surroundings.template(cloud)
    body = cloud.oneflow.service_template(template)
    kind, bounds = kind_of(body), size.bounds(body, settings)
    wanted = _resolve(kind, settings, defaults_of(body), bounds)
    return Checked(template, body, kind, wanted, bounds, tuple(ignored(wanted)))


def _resolve(kind: ServiceKind, given: Mapping[str, str], usual: Mapping[str, str], bounds: Bounds | None) -> Settings:
    """Return the settings of a service of this kind. Raises `InvalidParametersError` with every problem."""
    values = {**usual, **given}
    problems = list(kind.problems(given, values))
    try:
        wanted = resolve(values, kind.levels, bounds, kind.also)
    except InvalidParametersError as error:
        raise InvalidParametersError((*problems, *error.problems)) from None
    if problems:
        raise InvalidParametersError(problems)
    return wanted


def begin(cloud: Cloud, name: str, settings: Mapping[str, str], size: Size, notify: Notify = ignore) -> Service:
    """Check everything, prepare, then ask the cloud for a federation. Does not wait until it is ready.

    Raises `OneflowerError`, and leaves nothing behind, when a setting is wrong or the name is taken.
    """
    checked = check(cloud, name, settings, size)
    for remark in checked.remarks:
        notify(Note(remark))
    wanted = checked.settings
    cloud.surroundings.prepare(wanted["FLOWER_VERSION"], wanted["ML_FRAMEWORK"], lambda text: notify(Step(text)))
    _check_free(cloud, name)  # which may have taken minutes
    notify(Step(f"deploying {name}{_with(checked)}"))
    merge = merge_template(checked.body, name, wanted, checked.bounds, size.policies)
    made = Answer(lambda: cloud.oneflow.instantiate(checked.template, merge))
    try:
        number = made.wait()
    except UnreachableError as error:
        if not error.asked:
            raise
        hint = f"{error.hint} It may have created {name} anyway: look with `oneflower ls`."
        raise OneflowerError(error.message, hint, error.code) from error
    except KeyboardInterrupt:
        _take_back(cloud, made, name)
        raise
    service = Service(cloud, number, name)
    _keep_if_first(service)
    return service


def recorded(
    cloud: Cloud, name: str, size: Size, settings: Mapping[str, str]
) -> AbstractContextManager[dict[str, str]]:
    """Record a deployment: of settings, the names."""
    asked = "" if size.supernodes is None else str(size.supernodes)
    return audited(cloud, "deploy", name, supernodes=asked, settings=", ".join(sorted(settings)))


def _with(checked: Checked) -> str:
    nodes = f" with {counted(checked.bounds.cardinality, 'SuperNode')}" if checked.bounds else ""
    return nodes if checked.kind is ServiceKind.FEDERATION else f", a {checked.kind}{nodes}"


def give_up(service: Service, notify: Notify = ignore) -> str:
    """Show the consoles of the machines that failed, then remove the service. Returns what `roll_back` returns."""
    notify(StepEnded(well=False))
    _show_consoles(service, notify)
    notify(Step(f"rolling back: removing {service.name}"))
    left = roll_back(service)
    notify(StepEnded(well=not left))
    return left


def _show_consoles(service: Service, notify: Notify) -> None:
    try:
        failed = [vm for vm in service.status().vms if vm.error and not vm.ready]
    except OneflowerError:
        return
    for vm in failed:
        for line in service.cloud.surroundings.console(vm.id, _LINES):
            entry = parse(line)
            for shown in (text_of(entry) if entry else line).split("\n"):
                notify(ConsoleLine(vm.name, shown))


def _take_back(cloud: Cloud, made: Answer[int], name: str) -> None:
    """Remove the service that the cloud is creating: it has the request, and will answer with the id in a moment."""
    cloud.tell(str(Note(f"removing {name} as soon as the cloud has created it.")))
    try:
        number = made.wait()
    except OneflowerError as error:
        cloud.tell(str(Note(error.message)))
    except KeyboardInterrupt:
        cloud.tell(
            f"Left behind: {name}, if it was created. Look with `oneflower ls`, remove it with `oneflower down`."
        )
        raise
    else:
        roll_back(Service(cloud, number, name))


def _check_free(cloud: Cloud, name: str) -> None:
    if any(known.name == name for known in Service.all(cloud)):
        raise _taken(name)


def _keep_if_first(service: Service) -> None:
    """Remove a service if another one with the same name was created at the same moment, before it.

    OneFlow allows two services with one name. But their ids increase, and every client looks after creating one. So the
    client of the lowest id sees that its service is the first, and every other client sees that service too.
    """
    try:
        first = min(
            (known.id for known in Service.all(service.cloud) if known.name == service.name), default=service.id
        )
    except BaseException:
        roll_back(service)
        raise
    if first < service.id:
        roll_back(service)
        raise _taken(service.name)


def _taken(name: str) -> OneflowerError:
    return OneflowerError(
        f"There is already a federation called {name!r}.",
        f"Choose another name, or remove it with `oneflower down {name}`.",
        ExitCode.CONFLICT,
    )
