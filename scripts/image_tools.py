"""Print what building and trying an image needs, as `scripts/need` takes it: a command or file, and its package."""

from oneflower.images.tools import NEEDED as TO_BUILD
from oneflower.trial import NEEDED as TO_TRY

for name, package in {**TO_BUILD, **TO_TRY}.items():
    print(name, package)
