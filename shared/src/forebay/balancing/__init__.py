"""Who owns a block (placement, by capacity weights) and whom to ask for it now (selection, by serving weights)."""

from forebay.balancing.placement import Placement, owns_blocks, ranking
from forebay.balancing.selection import Load, LoadTable, choose, pressure

__all__ = ["Load", "LoadTable", "Placement", "choose", "owns_blocks", "pressure", "ranking"]
