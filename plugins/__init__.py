"""The built-in task types, installed as `sytq_plugins`; each file uses only what any plugin could."""
