"""Talks to OpenNebula's core, over XML-RPC (pyone)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from oneflower.cloud import direct
from oneflower.cloud.answer import Answer
from oneflower.cloud.objects import PERMISSIONS, Datastore, Image, Vm, plain
from oneflower.cloud.refused import RefusedError, chain, foreign, reason, unreachable
from oneflower.opennebula import render
from oneflower.opennebula.states import ImageState, VmState
from oneflower_appliance.peers import StrangerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from xml.etree.ElementTree import Element

    from oneflower.cloud.credentials import Endpoints
    from oneflower.cloud.outages import Limits, Outages

_ALL_MINE_AND_USABLE = -2
_ONEADMIN = "0"
_ADMINISTRATORS = 0  # the id of the group oneadmin
_STATUS_OF_CODE = {0x0100: 401, 0x0200: 401, 0x0400: 404}
_STATUS_OF = {"OneNoExistsException": 404, "OneAuthenticationException": 401, "OneAuthorizationException": 401}


class CoreClient:
    """The core's VMs, VM templates, images, datastores, networks and users. Methods raise `OneflowerError`.

    `help_of` returns what to do when the server does not answer, given the variable that holds its address.
    """

    def __init__(self, endpoints: Endpoints, outages: Outages, help_of: Callable[[str], str], limits: Limits) -> None:
        self._endpoints = endpoints
        self._outages = outages
        self._help_of = help_of
        self._limits = limits

    def connect(self, endpoints: Endpoints) -> None:
        """Use the server at these endpoints from now on."""
        self._endpoints = endpoints
        self.__dict__.pop("_one", None)

    def version(self) -> tuple[int, ...]:
        """Return the release of OpenNebula, such as (7, 4, 0)."""
        text = str(self._ask(lambda one: one.system.version()))
        return tuple(int(part) for part in text.split(".") if part.isdigit())

    def vms(self, numbers: Iterable[int]) -> dict[int, Vm]:
        """Return the VMs that exist and are not done, by id."""
        wanted = ",".join(map(str, numbers))
        if not wanted:
            return {}
        pool = self._ask(lambda one: one.vmpool.infoset(wanted, True))
        return {vm.ID: Vm(vm) for vm in pool.VM if vm.STATE != VmState.DONE}

    def vm(self, number: int) -> Vm | None:
        """Return a VM, or None if there is none with that id."""
        found: Vm | None = self._found(lambda one: Vm(one.vm.info(number)))
        return found

    def vm_context(self, number: int) -> dict[str, Any]:
        """Return the whole CONTEXT of a VM."""
        context: dict[str, Any] = plain(self._ask(lambda one: one.vm.info(number)).TEMPLATE)["CONTEXT"]
        return context

    def act_on_vm(self, number: int, action: str) -> None:
        """Perform an action of OpenNebula on a VM, such as terminate-hard, poweroff or resume."""
        self._ask(lambda one: one.vm.action(action, number), again=False)

    def set_vm_attribute(self, number: int, name: str, value: str) -> None:
        """Set an attribute of a VM, which it reads through OneGate. Others stay."""
        self._ask(lambda one: one.vm.update(number, f'{name}="{value}"', 1))

    def configure_vm(self, number: int, context: Mapping[str, str], boot: int | None = None) -> None:
        """Set entries of a VM's CONTEXT, and the disk from which it boots. Others stay. It counts at the next boot."""
        system = {"OS": {"BOOT": f"disk{boot}"}} if boot is not None else {}
        self._ask(lambda one: one.vm.updateconf(number, render({"CONTEXT": dict(context)} | system), 1))

    def attach_disk(self, number: int, disk: Mapping[str, str]) -> None:
        """Have a disk attached to a VM, which is running or powered off."""
        self._ask(lambda one: one.vm.attach(number, render({"DISK": dict(disk)})), again=False)

    def detach_disk(self, number: int, disk: int) -> None:
        """Have a disk detached from a VM, with what is on it."""
        self._ask(lambda one: one.vm.detach(number, disk), again=False)

    def set_user_attribute(self, name: str, value: str) -> None:
        """Set an attribute of the user that asks, such as SSH_PUBLIC_KEY. Others stay."""
        self._ask(lambda one: one.user.update(one.user.info(-1).ID, f'{name}="{value}"', 1))

    def recover_vm(self, number: int, operation: int) -> None:
        """Recover a VM: 0 declares a failure, 1 declares success, 2 retries."""
        self._ask(lambda one: one.vm.recover(number, operation), again=False)

    def vm_template(self, number: int) -> dict[str, Any] | None:
        """Return the content of a VM template, or None if there is none. Raises `RefusedError` if it is not ours."""
        found = self._found(lambda one: one.template.info(number))
        return None if found is None else plain(found.TEMPLATE)

    def vm_templates(self) -> dict[str, int]:
        """Return the ids of the VM templates that are the user's or oneadmin's and that we may use, by name.

        Names are unique for an owner only: what another user calls like one of ours is not ours.
        """
        pool = self._ask(lambda one: one.templatepool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return {template.NAME: template.ID for template in pool.VMTEMPLATE if self.is_ours(template.UID)}

    def create_vm_template(self, text: str) -> int:
        """Store a VM template and return its id."""
        return int(self._ask(lambda one: one.template.allocate(text), again=False))

    def update_vm_template(self, number: int, text: str) -> None:
        """Replace the content of a VM template."""
        self._ask(lambda one: one.template.update(number, text, 0))

    def delete_vm_template(self, number: int) -> None:
        """Remove a VM template, and nothing else."""
        self._ask(lambda one: one.template.delete(number), again=False)

    def rename_vm_template(self, number: int, name: str) -> None:
        """Give a VM template another name."""
        self._ask(lambda one: one.template.rename(number, name))

    def share_vm_template(self, number: int, like: int) -> None:
        """Give a VM template the group and the permissions of another."""
        self._share(lambda one: one.template, number, like)

    def images(self) -> dict[str, int]:
        """Return the ids of the images that we may use, by name. What is ours counts before what is another user's."""
        return {image.name: image.id for image in sorted(self.every_image(), key=lambda each: self.is_ours(each.owner))}

    def every_image(self) -> list[Image]:
        """Return the images that we may use."""
        pool = self._ask(lambda one: one.imagepool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return [Image(image) for image in pool.IMAGE]

    def image(self, number: int) -> Image:
        """Return an image."""
        return Image(self._ask(lambda one: one.image.info(number)))

    def find_image(self, number: int) -> Image | None:
        """Return an image, or None if there is none with that id."""
        found = self._found(lambda one: one.image.info(number))
        return None if found is None else Image(found)

    def share_image(self, number: int, like: int) -> None:
        """Give an image the group and the permissions of another."""
        self._share(lambda one: one.image, number, like)

    def create_image(self, text: str, datastore: int) -> int:
        """Store an image, which takes a while, and return its id."""
        return int(self._ask(lambda one: one.image.allocate(text, datastore), again=False))

    def delete_image(self, number: int) -> None:
        """Remove an image. One that is still being copied is removed by force, which only administrators may."""
        force = (True,) if self.image(number).state == ImageState.LOCKED else ()
        self._ask(lambda one: one.image.delete(number, *force), again=False)

    def datastores(self) -> dict[str, Datastore]:
        """Return the datastores, by name."""
        pool = self._ask(lambda one: one.datastorepool.info())
        return {datastore.NAME: Datastore(datastore) for datastore in pool.DATASTORE}

    def networks(self) -> dict[str, int]:
        """Return the ids of the virtual networks that we may use, by name."""
        pool = self._ask(lambda one: one.vnpool.info(_ALL_MINE_AND_USABLE, -1, -1))
        return {network.NAME: network.ID for network in pool.VNET}

    def is_ours(self, owner: int | str) -> bool:
        """Whether an object with this owner is the user's who asks, or oneadmin's."""
        return str(owner) in (self.token_password[0], _ONEADMIN)

    @functools.cached_property
    def is_admin(self) -> bool:
        """Whether the user who asks is an administrator: in the group oneadmin."""
        user = self._ask(lambda one: one.user.info(-1))
        return _ADMINISTRATORS in (int(user.GID), *map(int, user.GROUPS.ID))

    @functools.cached_property
    def token_password(self) -> tuple[str, str]:
        """The id of the user who asks, and the password, maybe empty, for tokens of the VMs that this user created."""
        user = self._ask(lambda one: one.user.info(-1))
        return str(user.ID), plain(user.TEMPLATE).get("TOKEN_PASSWORD", "")

    def own_settings(self) -> dict[str, str]:
        """Return the template of the user who asks. It contains TOKEN_PASSWORD."""
        return plain(self._ask(lambda one: one.user.info(-1)).TEMPLATE)

    @functools.cached_property
    def _one(self) -> Any:
        import pyone  # noqa: PLC0415 - costs time that most commands need not spend
        import requests  # noqa: PLC0415 - which pyone uses

        # The `timeout` of pyone changes the default of every socket of this process, but not that of its own.
        one = pyone.OneServer(self._endpoints.xmlrpc, session=self._endpoints.session)
        transport, silence = one("transport"), self._limits.silence
        post = direct.session(silence).post if self._endpoints.direct else requests.post
        transport.request = functools.partial(_post, transport, functools.partial(post, timeout=silence))
        return one

    def read(self, method: str, *parameters: object) -> Element:
        """Return the XML that a call answers, as the core sends it."""
        from xml.etree import ElementTree  # noqa: PLC0415 - few commands need it

        text = str(self.call(method, *parameters))
        try:
            return ElementTree.fromstring(text)  # noqa: S314 - of the cloud that the user chose, as pyone
        except ElementTree.ParseError as error:
            raise foreign(f"OpenNebula at {self._endpoints.xmlrpc}") from error

    def call(self, method: str, *parameters: object) -> Any:
        """Return what a call answers, which pyone would read through its schemas."""
        return self._ask(lambda one: self._raw(one, method, parameters))

    def _raw(self, one: Any, method: str, parameters: Iterable[object]) -> Any:
        import xmlrpc.client  # noqa: PLC0415 - as pyone

        proxy = xmlrpc.client.ServerProxy(self._endpoints.xmlrpc, transport=one("transport"))
        success, value, code, *_ = getattr(proxy, method)(self._endpoints.session, *parameters)
        if not success:
            raise RefusedError(_STATUS_OF_CODE.get(code, 500), reason(str(value)), "OpenNebula")
        return value

    def _share(self, kind: Callable[[Any], Any], number: int, like: int) -> None:
        model = self._ask(lambda one: kind(one).info(like))
        bits = [int(getattr(model.PERMISSIONS, name)) for name in PERMISSIONS]
        self._ask(lambda one: kind(one).chown(number, -1, int(model.GID)))
        self._ask(lambda one: kind(one).chmod(number, *bits))

    def _ask(self, call: Callable[[Any], Any], *, again: bool = True) -> Any:
        return self._outages.ask(lambda: self._ask_once(call), again=again)

    def _ask_once(self, call: Callable[[Any], Any]) -> Any:
        import xml.parsers.expat  # noqa: PLC0415 - as pyone
        import xmlrpc.client  # noqa: PLC0415

        import pyone  # noqa: PLC0415
        import requests  # noqa: PLC0415 - which pyone uses

        where = f"OpenNebula at {self._endpoints.xmlrpc}"
        try:
            return Answer(lambda: call(self._one)).wait(self._limits.answer)
        except pyone.OneException as error:
            # pyone has a class for each of the core's error codes.
            raise RefusedError(_STATUS_OF.get(type(error).__name__, 500), reason(str(error)), "OpenNebula") from error
        except xmlrpc.client.ProtocolError as error:
            raise RefusedError(error.errcode, reason(error.errmsg), "OpenNebula") from error
        except (xml.parsers.expat.ExpatError, xmlrpc.client.Error) as error:
            raise foreign(where) from error
        except (OSError, requests.RequestException) as error:
            inner = list(chain(error))
            stranger = next((one for one in inner if isinstance(one, StrangerError)), None)
            asked = stranger is None and not any(isinstance(one, ConnectionRefusedError) for one in inner)
            raise unreachable(where, self._help_of("ONE_XMLRPC"), stranger or error, asked=asked) from error

    def _found(self, call: Callable[[Any], Any]) -> Any:
        """Return the core's answer, or None if it knows no such object."""
        try:
            return self._ask(call)
        except RefusedError as error:
            if error.not_found:
                return None
            raise


def _post(transport: Any, post: Any, host: str, handler: str, body: bytes, verbose: bool = False) -> Any:  # noqa: ARG001, FBT001, FBT002 - as xmlrpc calls it
    """Post a request as pyone's transport does, but with a time limit."""
    import xmlrpc.client  # noqa: PLC0415 - as pyone

    url = f"{'https' if transport.use_https else 'http'}://{host}/{handler.lstrip('/')}"
    answer = post(url, data=body, headers=transport.headers)
    if not answer.ok:
        raise xmlrpc.client.ProtocolError(url, answer.status_code, answer.text, dict(answer.headers))
    return transport.parse_response(answer)
