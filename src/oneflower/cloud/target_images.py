"""Which images the machines of a service should boot, and whether they may: for an upgrade to another image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneflower.cloud.document import roles_of
from oneflower.cloud.image_source import ImageFacts
from oneflower.cloud.machine import disks
from oneflower.cloud.release_change import Destination, release_of
from oneflower.opennebula.carried import RELEASE
from oneflower.opennebula.linted import mapping
from oneflower.opennebula.states import ImageState
from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.parameters import FLOWER_TESTED, PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.cloud.core import CoreClient
    from oneflower.cloud.objects import Image

_USABLE = (ImageState.READY, ImageState.USED)
_DIGESTS = ("MD5", "SHA1")


class TargetImages:
    """The images of the service `name`, whose document is `body`: those that it has, and those that it could have."""

    def __init__(self, core: CoreClient, name: str, body: Mapping[str, Any]) -> None:
        self._core = core
        self._name = name
        self._body = body

    def origin(self) -> Destination:
        """Return what the document says."""
        images = {role: found[0].get("IMAGE_ID", "") for role in roles_of(self._body) if (found := self.disks(role))}
        return self._destination(release_of(self._body), {role: image for role, image in images.items() if image})

    def disks(self, role: str) -> list[dict[str, str]]:
        """Return the disks that new machines of a role get."""
        here = roles_of(self._body)[role]
        own = disks(mapping(here.get("template_contents")))
        return own or disks(self._core.vm_template(int(here["template_id"])) or {})

    def disks_for(self, to: Destination) -> dict[str, list[dict[str, str]]]:
        """Return the disks that new machines of each role should get: the first of another image, the others as now."""
        found = {}
        for role, image in to.images.items():
            first, *others = self.disks(role) or [{}]
            about = self._core.image(int(image))
            fresh = {key: value for key, value in first.items() if key not in ("IMAGE", "IMAGE_UNAME", "IMAGE_UID")}
            fresh |= {"IMAGE_ID": image}
            if first.get("SIZE", "").isdigit():
                fresh["SIZE"] = str(max(int(first["SIZE"]), about.size))
            found[role] = [fresh, *others]
        return found

    def target(self, release: str = "", image: str = "") -> Destination:
        """Return where to go: to a release, to an image (a name or an id), or to what is registered today.

        Raises `OneflowerError` if that cannot be.
        """
        release, origin = _valid(release), self.origin()
        if not origin.images:
            if image:
                raise OneflowerError(
                    f"The machines of {self._name} boot no image.",
                    "Give a release: --flower-version.",
                    ExitCode.CONFLICT,
                )
            return Destination(release or FLOWER_TESTED)
        roles = list(origin.images)
        chosen = dict.fromkeys(roles, self._find(image)) if image else {role: self._registered(role) for role in roles}
        for role, each in chosen.items():
            self._check(each, self._core.find_image(int(origin.images[role])))
        carried = {each.name: ImageFacts.read(each.attributes).carried.flower for each in chosen.values()}
        known = {flower for flower in carried.values() if flower}
        if len(known) > 1:
            said = ", ".join(f"{name} carries Flower {flower or '(unknown)'}" for name, flower in carried.items())
            raise OneflowerError(
                f"The images do not fit each other: {said}.", "Register images of one release.", ExitCode.CONFLICT
            )
        if not known and not release:
            raise OneflowerError(
                f"The image {next(iter(carried))} does not say which release of Flower it carries.",
                "Give it: --flower-version.",
                ExitCode.USAGE,
            )
        there = next(iter(known), release)
        if release and release != there:
            raise OneflowerError(
                f"The image {next(iter(carried))} carries Flower {there}, and not {release}.",
                "Register one that does (`oneflower register --image`), or name it with --image.",
                ExitCode.CONFLICT,
            )
        return self._destination(there, {role: str(each.id) for role, each in chosen.items()})

    def _destination(self, release: str, images: Mapping[str, str]) -> Destination:
        known = {each: self._core.find_image(int(each)) for each in images.values() if each.isdigit()}
        titles = {each: about.name for each, about in known.items() if about}
        facts = {each: ImageFacts.read(about.attributes).release for each, about in known.items() if about}
        return Destination(release, dict(images), titles, {each: said for each, said in facts.items() if said})

    def _find(self, wanted: str) -> Image:
        number = self._core.images().get(wanted, int(wanted) if wanted.isdigit() else None)
        image = self._core.find_image(number) if number is not None else None
        if image is None:
            raise OneflowerError(
                f"There is no image {wanted!r}, or none that you may use.",
                "`oneimage list` shows them; `oneflower register --image` stores one.",
                ExitCode.NOT_FOUND,
            )
        return image

    def _registered(self, role: str) -> Image:
        """Return the image of the VM template of today. One that was set aside is called after it: `NAME-ID`."""
        number, known = int(roles_of(self._body)[role]["template_id"]), self._core.vm_templates()
        name = next((each for each, its in known.items() if its == number), "")
        today = known.get(name.removesuffix(f"-{number}"))
        found = disks(self._core.vm_template(today) or {}) if today is not None else []
        if not found or not found[0].get("IMAGE_ID", "").isdigit():
            raise OneflowerError(
                f"Nobody knows which image is registered for the {role} of {self._name} today.",
                "Name the image: --image NAME.",
                ExitCode.NOT_FOUND,
            )
        return self._core.image(int(found[0]["IMAGE_ID"]))

    def _check(self, image: Image, before: Image | None) -> None:
        """Raise `OneflowerError` if a machine that boots the image `before` cannot boot this one in its place."""
        if before is not None and before.id == image.id:
            return
        if image.state not in _USABLE or image.persistent:
            why = "is persistent, so that only one machine could boot it" if image.persistent else "is not ready"
            raise OneflowerError(f"The image {image.name} {why}.", f"`oneimage show {image.id}`", ExitCode.CONFLICT)
        if before is None:
            return
        if any(before.attributes.get(each, 0) == image.attributes.get(each, 1) for each in _DIGESTS):
            raise OneflowerError(
                f"The image {image.name} is a copy of {before.name}, which the machines boot: nothing would change.",
                "Build a new image.",
                ExitCode.CONFLICT,
            )
        now, then = (ImageFacts.read(each.attributes).carried.framework for each in (image, before))
        if now and then and now != then:
            raise OneflowerError(
                f"The image {image.name} carries {now}, and the machines of {self._name} need {then}.",
                f"Build one with --framework {then}, or deploy another federation.",
                ExitCode.CONFLICT,
            )


def _valid(release: str) -> str:
    if not release:
        return ""
    try:
        return str(PARAMETERS[RELEASE].parse(release))
    except ValueError as error:
        raise OneflowerError(f"{release!r} is not a release of Flower: {error}", "", ExitCode.USAGE) from error
