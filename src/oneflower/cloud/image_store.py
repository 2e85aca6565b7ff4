"""Puts images into a datastore of OpenNebula and waits until they are ready, once for each content."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from oneflower.cloud.image_refused import not_made
from oneflower.cloud.image_source import TO_BE, ImageFacts, Stored, owner_of
from oneflower.cloud.refused import RefusedError
from oneflower.opennebula.states import ImageState
from oneflower_appliance.errors import ExitCode, OneflowerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from oneflower.cloud.client import Cloud
    from oneflower.cloud.image_source import ImageSource
    from oneflower.cloud.objects import Datastore, Image

_READY = (ImageState.READY, ImageState.USED, ImageState.USED_PERS)
_LIMIT = 3600.0
_SIGN_OF_LIFE = 15.0  # seconds between two remarks while OpenNebula copies
_PULSE = 0.5


class ImageStore:
    """The images of one registration, `owner`, in one datastore. `notify` receives signs of life."""

    def __init__(
        self, cloud: Cloud, owner: str, datastore: str, notify: Callable[[str], None], *, dry_run: bool
    ) -> None:
        self._cloud = cloud
        self._owner = owner
        self._datastore = datastore
        self._notify = notify
        self._dry_run = dry_run
        self._done: dict[str, Stored] = {}

    def check(self, *sources: ImageSource) -> None:
        """Raise `OneflowerError` unless the sources are valid and the datastore can take them."""
        for source in sources:
            source.check()
        if not sources:
            return
        known = self._cloud.core.datastores()
        store = known.get(self._datastore)
        usable = ", ".join(sorted(name for name, each in known.items() if each.for_images)) or "none"
        if store is None:
            raise OneflowerError(
                f"There is no datastore called {self._datastore!r}, or none that you may use.",
                f"For images there are: {usable}.",
                ExitCode.NOT_FOUND,
            )
        if not store.for_images:
            raise OneflowerError(f"The datastore {store.name} is not for images.", f"For images there are: {usable}.")

    def stored(self, number: int) -> Stored | None:
        """Return an image that is there, or None if it is gone."""
        image = self._cloud.core.find_image(number)
        if image is None:
            return None
        return Stored(str(number), image.name, replace(ImageFacts.read(image.attributes), least=image.size))

    def put(self, source: ImageSource, role: str, created: Callable[[Image], None]) -> Stored:
        """Return the image of a source, putting it there if necessary. `created` is called with one that was begun.

        Raises `OneflowerError`, which says what to do, if OpenNebula cannot make it.
        """
        name = source.name(self._owner, role)
        if name not in self._done:
            self._done[name] = self._put(source, name, created)
        return self._done[name]

    def _put(self, source: ImageSource, name: str, created: Callable[[Image], None]) -> Stored:
        core = self._cloud.core  # an image of this name that is another user's may hold anything
        known = next((each for each in core.every_image() if each.name == name and core.is_ours(each.owner)), None)
        if known is not None and known.state == ImageState.ERROR and owner_of(known.attributes) == self._owner:
            self._notify(f"image {name}: removing what an earlier attempt left, in state ERROR")
            if not self._dry_run:
                self._cloud.core.delete_image(known.id)
            known = None
        if known is None and self._dry_run:
            return Stored(TO_BE, name, source.facts, fresh=True)
        store = self._cloud.core.datastores()[self._datastore]
        if known is None:
            number = self._allocate(source, name, store)
            created(self._cloud.core.image(number))
        else:
            number = known.id
        self._wait(number, name, source, store)
        return Stored(str(number), name, source.facts, fresh=known is None)

    def _allocate(self, source: ImageSource, name: str, store: Datastore) -> int:
        self._notify(f"image {name}: OpenNebula copies {source.source} into {store.name}")
        try:
            return self._cloud.core.create_image(source.template(name, self._owner), store.id)
        except RefusedError as error:
            if error.not_found:
                raise
            raise not_made(name, error.text, source, store, self._cloud.endpoints.xmlrpc) from error

    def _wait(self, number: int, name: str, source: ImageSource, store: Datastore) -> None:
        begin = last = time.monotonic()
        while (image := self._cloud.core.image(number)).state not in _READY:
            now = time.monotonic()
            if image.state == ImageState.ERROR:
                reason = image.error or "no reason given"
                raise not_made(name, reason, source, store, self._cloud.endpoints.xmlrpc)
            if image.state == ImageState.DISABLED:
                raise OneflowerError(f"The image {name} is disabled.", f"oneimage enable {number}", ExitCode.CONFLICT)
            if now - begin > _LIMIT:
                raise OneflowerError(
                    f"The image {name} is not ready after an hour.",
                    f"Look at it: `oneimage show {number}`, and at the front-end's /var/log/one/oned.log.",
                    ExitCode.TIMEOUT,
                )
            if now - last > _SIGN_OF_LIFE:
                last = now
                self._notify(f"image {name}: still being copied ({now - begin:.0f} s)")
            time.sleep(_PULSE)
