"""Flower's own processes, and everything that depends on Flower's internals."""

import sys

# What imports Pygments, which takes 6 MB: httpx's command line, and Mako's pages in HTML that show an error. Nobody
# uses them here. Both packages do without where they find that the module is not there.
for _module in ("httpx._main", "mako.ext.pygmentplugin"):
    sys.modules.setdefault(_module, None)  # type: ignore[arg-type] # Python's way to say that it is not there
