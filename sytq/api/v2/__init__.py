"""The native API: tasks of any type, what happens to them, and what runs them.

One file a noun. The form of answers is in `sytq.service.task_view` and `sytq.service.status`, that of requests in
`requests`.
"""
