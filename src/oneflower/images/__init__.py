"""Builds the disk image from which both roles boot: Debian packages, Python wheels by hash, our units; nothing else.

The parts read from the top: `spec` says what is built, `build` in which steps, and each step has a module.
"""

from oneflower.images.build import Built, build
from oneflower.images.spec import VARIANTS, ImageSpec

__all__ = ["VARIANTS", "Built", "ImageSpec", "build"]
