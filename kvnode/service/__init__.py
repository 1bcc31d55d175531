"""Service: what a node does with a request, between the links of `net`, the rows of `storage` and the decisions of
`core`.

It keeps the requests in flight, their deadlines and their bounds; it asks `core` what to do and does it.  It holds no
socket and opens no file, creates no task, future or timer per request, and shows nothing before it is durable (R6).
"""
