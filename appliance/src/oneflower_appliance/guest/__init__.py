"""What an image does with OpenNebula's context before the agent starts: network, name, keys, folders, START_SCRIPT.

It reads the keys and keeps the paths of OpenNebula's own one-context. Where that is installed, it does the work, and
this only hands the context on to the agent.
"""
