"""Writes what a marketplace of OpenNebula needs for an image and the form: a contribution, or a private marketplace."""

from oneflower.marketplace.app_image import AppImage, read_image
from oneflower.marketplace.catalogue import Publisher
from oneflower.marketplace.contribution import Written, render, render_private

__all__ = ["AppImage", "Publisher", "Written", "read_image", "render", "render_private"]
