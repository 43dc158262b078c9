"""Who owns a block (placement, by capacity weights) and whom to ask for it now (selection, by serving weights)."""

from forebay.balancing.placement import Placement, ranking
from forebay.balancing.selection import Load, LoadTable, choose, pressure
from forebay.contracts.members import owns_blocks

__all__ = ["Load", "LoadTable", "Placement", "choose", "owns_blocks", "pressure", "ranking"]
