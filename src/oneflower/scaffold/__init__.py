"""New Flower apps: written from templates, to be changed by their owner."""
