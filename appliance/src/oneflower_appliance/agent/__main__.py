"""`python -m oneflower_appliance.agent.agent`."""

from oneflower_appliance.agent.agent import main

main()
