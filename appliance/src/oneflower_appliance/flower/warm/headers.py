"""The headers with which a client and its server agree on a request that is held. Stock Flower knows none of them."""

PREFER, APPLIED = "prefer", "preference-applied"  # `wait=SECONDS`: for how long it may be held; `wait`: it is held
HEARTBEAT = "oneflower-heartbeat"  # in a request: it counts as one, with this interval in seconds; in an answer:
RECORDED, TAKEN = "recorded", "taken"
BUNDLE = "oneflower-bundle"  # in a request for objects: how many bytes of them its answer has at most, about
WORK, STUCK = "oneflower-work", "stuck"  # in an answer, if the round of the node's message has ended
