"""Print what building and trying an image needs, as `scripts/need` takes it: a command or file, and its package."""

from oneflower.images.tools import NEEDED as TO_BUILD
from oneflower.trial.outside import NEEDS

for needed in (TO_BUILD, *NEEDS.values()):
    for name, package in needed.items():
        print(name, package)
