"""Tries an image: a federation of machines that boot it deploys, trains, heals, scales, and is removed.

The machines are containers, each with the image's own systemd as process 1, or virtual machines of QEMU. They and the
local cloud that runs them are in network, mount and process namespaces of their own, which end with the trial and
everything in them. All that is done is done as an operator of OpenNebula does it, through the same client: the
SuperLink is reached over SSH.
"""
