"""Net: sockets on one side, checked messages on the other.

It frames, batches, limits and closes links, and keeps one link to each peer.  It declares the handlers that it calls
and knows nothing of storage, service or what a message decides; a bad byte closes one link with a reason and never
stops the node.
"""
