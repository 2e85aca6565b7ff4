"""Builds the disk image that both roles boot from: only Debian packages, Python wheels by hash, and our units.

`spec` says what is built, `build` has the steps, and each step has a module.
"""

from oneflower.images.build import Built, build
from oneflower.images.spec import VARIANTS, ImageSpec

__all__ = ["VARIANTS", "Built", "ImageSpec", "build"]
