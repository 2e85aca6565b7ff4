"""Run the agent as a module: `python -m` and the name of this package."""

from oneflower_appliance.agent.agent import main

main()
