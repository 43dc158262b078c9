"""Forebay: a distributed training-data cache (contracts, transport, discovery, client SDK)."""

__version__ = "0.1.0"
