"""The native API, /v2. Responses have the shapes in `sytq.service.task_view` and `sytq.service.status`."""
