"""The life of one federation, for programs and notebooks and for the command line.

    with Federation.deploy(cloud, supernodes=4, settings={"FL_NUM_ROUNDS": "5"}) as federation:
        result = federation.run("image-classification")
        print(result.rows[-1].accuracy)

Leaving the block removes it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Self

from oneflower.cloud import deletion, deployment, names, waiting
from oneflower.cloud.federation_runs import Runs
from oneflower.cloud.logs import Wanted, follow_logs, read_logs
from oneflower.cloud.rotation import Rotation
from oneflower.cloud.scaling import Limits, Size, leaving
from oneflower.cloud.service import Service
from oneflower.cloud.sites import Sites
from oneflower.cloud.upgrade import Upgrade
from oneflower.events import Note, StepEnded, ignore
from oneflower.opennebula import NODES
from oneflower.opennebula.states import ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.logs import LogLine, Logs
    from oneflower.cloud.release_change import ReleaseChange
    from oneflower.cloud.status import FederationStatus, VmStatus
    from oneflower.cloud.surroundings import Installed
    from oneflower.cloud.waiting import Watch
    from oneflower.events import Notify
    from oneflower_appliance.settings import Bounds


class Federation(Runs):
    """A deployed federation, by the id of its service. As a context manager it removes itself at the end.

    It may also be the part of a federation that is in one cloud: a coordinator, or a site.
    """

    def __init__(self, cloud: Cloud, number: int, name: str) -> None:
        self.cloud = cloud
        self.id = number
        self.name = name
        self.service = Service(cloud, number, name)

    def __repr__(self) -> str:
        return f"<Federation {self.name!r}, service {self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    # -- finding and making ------------------------------------------------------------------------------------------

    @classmethod
    def find(cls, cloud: Cloud, name: str | None = None) -> Federation:
        """Return the federation called `name`, or the only one. Raises `OneflowerError`."""
        return names.choose(list(cls.all(cloud)), name)

    @classmethod
    def all(cls, cloud: Cloud) -> Iterator[Federation]:
        """Yield every service that is a federation, a coordinator or a site."""
        for service in Service.all(cloud):
            yield cls(cloud, service.id, service.name)

    @classmethod
    def check(
        cls,
        cloud: Cloud,
        supernodes: int | None = None,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
        limits: tuple[int | None, int | None] | Limits = (None, None),
    ) -> tuple[str, ...]:
        """Check what `deploy` would be asked for, and start nothing. Returns what a person should know about it.

        Raises `OneflowerError`, with every setting that is not valid.
        """
        given = dict(settings or {})
        return deployment.check(cloud, name, given, Size(supernodes, *limits)).remarks

    @classmethod
    def defaults(cls, cloud: Cloud) -> dict[str, str]:
        """Return the value that each variable has unless it is set: those of the service template."""
        return deployment.defaults(cloud)

    @classmethod
    def begin(
        cls,
        cloud: Cloud,
        name: str,
        settings: Mapping[str, str],
        bounds: Bounds | None = None,
        notify: Notify = ignore,
    ) -> Federation:
        """Check everything, prepare, then ask the cloud for a federation. `wait_ready` waits for it.

        Without `bounds`, those of the service template count.
        Raises `OneflowerError`, and leaves nothing behind, when a setting is wrong or the name is taken.
        """
        size = Size() if bounds is None else Size(bounds.cardinality, bounds.minimum, bounds.maximum)
        with deployment.recorded(cloud, name, size, settings) as said:
            federation = cls._begin(cloud, name, settings, size, notify)
            said["service"] = str(federation.id)
        return federation

    @classmethod
    def _begin(cls, cloud: Cloud, name: str, settings: Mapping[str, str], size: Size, notify: Notify) -> Federation:
        service = deployment.begin(cloud, name, settings, size, notify)
        return cls(cloud, service.id, service.name)

    @classmethod
    def deploy(  # noqa: PLR0913 - all but the first may be left out
        cls,
        cloud: Cloud,
        supernodes: int | None = None,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
        *,
        limits: tuple[int | None, int | None] | Limits = (None, None),
        timeout: float = 600,
        watch: Watch = ignore,
        notify: Notify = ignore,
        keep: bool = False,
    ) -> Federation:
        """Deploy a federation and wait until all of its machines are ready.

        `watch` receives every status on the way, and `notify` what is being done (`oneflower.events`).
        The service template decides whether it is a whole federation, a coordinator or a site; how many `supernodes`,
        unless they are given; and, unless they are given, the `limits` of scaling. If it fails or is interrupted,
        everything is removed again, unless `keep`. Raises `OneflowerError`.
        """
        given = dict(settings or {})
        chosen = names.check_name(f"federation-{secrets.token_hex(2)}" if name is None else name)
        size = Size(supernodes, *limits)
        with deployment.recorded(cloud, chosen, size, given) as said:
            federation = cls._deploy(cloud, chosen, given, size, timeout, watch, notify, keep=keep)
            said["service"] = str(federation.id)
        return federation

    @classmethod
    def _deploy(
        cls,
        cloud: Cloud,
        name: str,
        settings: dict[str, str],
        size: Size,
        timeout: float,
        watch: Watch,
        notify: Notify,
        *,
        keep: bool,
    ) -> Federation:
        federation = cls._begin(cloud, name, settings, size, notify)
        try:
            federation.wait_ready(timeout, watch)
        except BaseException as error:
            if keep:
                notify(StepEnded(well=False))
                look, remove = f"oneflower logs {name}", f"oneflower down {name}"
                notify(Note(f"{name} is left as it is. Look with `{look}`; remove it with `{remove}`."))
            elif left := deployment.give_up(federation.service, notify):
                error.add_note(left)
            raise
        return federation

    # -- looking -----------------------------------------------------------------------------------------------------

    def installed(self, status: FederationStatus) -> Installed:
        """Return the packages that its machines have, without those that they publish themselves."""
        return self.cloud.surroundings.installed(status)

    def logs(
        self, lines: int | None = 40, vm: str | None = None, *, run: str | None = None, since: float = 0.0
    ) -> Logs:
        """Return what it reports, with the last `lines` of each console (None: all).

        `vm` (name, id or node id) chooses one machine, `run` the lines of one run, and `since` those from a time on, in
        seconds of the epoch. Raises `OneflowerError` when there is no such machine or run.
        """
        return read_logs(self.service, Wanted(lines, vm, run, since))

    @property
    def keeps_consoles(self) -> bool:
        """Whether its cloud keeps what machines write to their consoles."""
        return self.cloud.surroundings.tail(0) is not None

    def follow_logs(
        self, lines: int | None = 40, vm: str | None = None, *, run: str | None = None, since: float = 0.0
    ) -> Iterator[LogLine]:
        """Yield what it reports, as `logs`, and then each new line, until it is gone."""
        return follow_logs(self.service, Wanted(lines, vm, run, since))

    def wait_ready(self, timeout: float = 600, watch: Watch = ignore, grace: float = 0) -> FederationStatus:
        """Wait until it is running and every machine is ready; `watch` receives every status on the way.

        Raises `OneflowerError` when the federation fails (and has not recovered after `grace` seconds), is deleted
        meanwhile, or after `timeout` seconds.
        """
        with self.cloud.patient():
            return waiting.wait_ready(waiting.changes(self.service), timeout, watch, grace)

    # -- other sites -------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> Sites:
        """The other sites that were invited to it, and how to change that."""
        return Sites(self.cloud, self.service)

    @property
    def rotation(self) -> Rotation:
        """How to replace its CA and the keys of its SuperNodes before their time."""
        return Rotation(self.cloud, self.service)

    # -- changing ----------------------------------------------------------------------------------------------------

    def leaving(self, supernodes: int) -> list[VmStatus]:
        """Return the SuperNodes that scaling would remove: the oldest. Raises `OneflowerError` if it cannot be."""
        body = self.service.body()
        return leaving(body, self.service.status(body), supernodes)

    def scale(self, supernodes: int, timeout: float = 600, watch: Watch = ignore) -> FederationStatus:
        """Change the number of SuperNodes, and wait, through OneFlow's cooldown, until all of them are ready.

        Scaling down removes the oldest. Raises `OneflowerError`, and changes nothing, outside of the bounds.
        """
        with self._audited("scale", supernodes=str(supernodes)):
            self.leaving(supernodes)
            self.cloud.oneflow.scale_service(self.id, NODES, supernodes)
            return self.wait_ready(timeout, watch, waiting.HEALING)

    def upgrade_plan(self, release: str = "", image: str = "", *, back: bool = False) -> ReleaseChange:
        """Return how it would get to another release or image. Raises `OneflowerError` if that may not be done now."""
        return Upgrade(self.service).plan(release, image, back=back)

    def upgrade(
        self, release: str = "", timeout: float = 600, notify: Notify = ignore, *, image: str = "", back: bool = False
    ) -> ReleaseChange:
        """Move it to another release of Flower or another image, with its runs, models and partitions; return how.

        Machines that boot an image get `image`, a name or an id, or the one that is registered today. With `back`, an
        upgrade that was interrupted is taken back. If a machine is not ready after `timeout` seconds, all of them go
        back, and `OneflowerError` is raised.
        """
        with self._audited("upgrade", flower=release, image=image, back="YES" if back else ""), self.cloud.patient():
            return Upgrade(self.service, timeout, notify).run(release, image, back=back)

    def recover(self, timeout: float = 600, watch: Watch = ignore) -> FederationStatus:
        """Retry what failed, and wait until every machine is ready. Raises `OneflowerError`."""
        status = self.status()
        if status.ready:
            return status
        with self._audited("recover"):
            if status.state not in (ServiceState.RUNNING.name, ServiceState.WARNING.name):
                self.cloud.oneflow.recover_service(self.id)
            return self.wait_ready(timeout, watch, waiting.HEALING)

    def close(self) -> None:
        """Remove it."""
        self.delete()

    def roll_back(self) -> str:
        """Remove it after an error or an interrupt. That is what matters: errors of the removal are not raised.

        Returns what may be left behind and how to remove it, or an empty text; `Cloud.tell` has received the same. A
        second interrupt ends the removal. It is raised after `Cloud.tell` has received what is left.
        """
        with self._audited("remove", hindered=False) as said:
            left = deletion.roll_back(self.service)
            said["why"] = left
            return left

    @property
    def remains(self) -> str:
        """What is left of it in the cloud, by id, and how to remove it by hand."""
        return self.service.remains

    def delete(self, timeout: float = 120) -> None:
        """Undeploy it, whatever its state, and wait until it and every one of its VMs are gone.

        Raises `OneflowerError` after `timeout` seconds.
        """
        with self._audited("remove", hindered=False):
            deletion.delete(self.service, timeout)
