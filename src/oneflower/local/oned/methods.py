"""All methods of the core's XML-RPC interface, by name.

The session, the first parameter of each call, is checked first. A method gets the user instead. Most methods take
parameters that are not used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneflower.local.oned.account_methods import AclMethods, GroupMethods, UserMethods
from oneflower.local.oned.image_methods import ImageMethods
from oneflower.local.oned.site_methods import VERSION, NetworkMethods, SiteMethods
from oneflower.local.oned.template_methods import TemplateMethods
from oneflower.local.oned.vm_methods import VmMethods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oneflower.local.oned.compute import Compute
    from oneflower.local.oned.ownership import Method

__all__ = ["VERSION", "xmlrpc_methods"]
_PARTS = (SiteMethods, UserMethods, GroupMethods, AclMethods, TemplateMethods, VmMethods, ImageMethods, NetworkMethods)


def xmlrpc_methods(compute: Compute) -> Mapping[str, Method]:
    """Return every method that is implemented, by name."""
    return {name: method for part in _PARTS for name, method in part(compute).table().items()}
