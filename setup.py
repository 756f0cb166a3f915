"""Only the list of packages, which setup.cfg cannot say: the folder plugins/ installs as `sytq_plugins`."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["sytq", "sytq.*"]),
        "sytq_plugins",
        *(f"sytq_plugins.{name}" for name in find_packages("plugins")),
    ]
)
