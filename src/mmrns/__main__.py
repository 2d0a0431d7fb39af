"""`python -m mmrns` is the command line."""

from mmrns.cli import main

main()
