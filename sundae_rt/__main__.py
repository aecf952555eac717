"""`python -m sundae_rt` is `sundae-rt`."""

from sundae_rt.cli import main

main()
