"""`python -m zoo.cli` is the command `zoo`."""

from zoo.cli.main import main

main()
