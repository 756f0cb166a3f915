import nothing_here  # noqa: F401
