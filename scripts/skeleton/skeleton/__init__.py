"""The app of one use case: the server and the clients, and the task that both know."""
