"""How many examples hypothesis tries of each property: one in four in `make check`, all in `make e2e`, which CI runs."""

from __future__ import annotations

from hypothesis import settings

_ALL = "all"  # the profile that `make e2e` names
_ONE_IN = 4


def register_profiles():
    """Have hypothesis try few examples, unless pytest is called with --hypothesis-profile=all. A machine may be slow."""
    settings.register_profile(_ALL, deadline=None)
    settings.register_profile("few", deadline=None, max_examples=settings().max_examples // _ONE_IN)
    settings.load_profile("few")


def examples(number):
    """Return how many to try of `number` that a property is worth."""
    return number if settings.get_current_profile_name() == _ALL else number // _ONE_IN
