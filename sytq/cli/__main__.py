"""`python -m sytq.cli` is `sytq`."""

from sytq.cli import main

main()
