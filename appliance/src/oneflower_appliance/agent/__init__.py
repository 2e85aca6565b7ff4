"""What watches a machine: the agent and the steps of each role. It starts Flower in separate processes."""
