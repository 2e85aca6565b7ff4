"""Writes what an OpenNebula marketplace needs for an image and the form: as a contribution, or for a private one."""

from oneflower.marketplace.catalogue import Publisher
from oneflower.marketplace.contribution import Written, render, render_private

__all__ = ["Publisher", "Written", "render", "render_private"]
