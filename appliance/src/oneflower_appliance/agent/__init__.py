"""What watches over a machine: the agent and the steps of each role. It starts Flower in processes of its own."""
