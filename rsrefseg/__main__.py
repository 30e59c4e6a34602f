"""`python -m rsrefseg`: the command `rsrefseg`, for programs such as torchrun that start modules."""

from rsrefseg.cli import main

main(prog_name="rsrefseg")
