"""Warm execution (FL_EXECUTION=warm): rounds as fast as the work in them, on unmodified Flower.

Stock Flower starts a Python interpreter for each task and lets every process ask every few seconds whether there is
news. Here the SuperExec has Flower and the framework imported already and forks for each task (`superexec`, `tasks`),
and a question that has no answer yet is held until it has one (`longpoll` where it is answered, `waits` where it is
asked). What Flower offers for it is used: its executor interface, its interceptors, its ASGI applications. The names
of Flower that have to be replaced are in `flower.places`.
"""

ROLES = ("superlink", "supernode")
