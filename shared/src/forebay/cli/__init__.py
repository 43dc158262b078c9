"""The command line of the product: bring a cluster up, look at one."""

from forebay.cli.main import main

__all__ = ["main"]
