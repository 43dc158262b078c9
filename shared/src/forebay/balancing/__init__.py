"""Who owns a block (placement, by capacity weights) and whom to ask for it now (selection, by serving weights)."""

from forebay.balancing.busy import Owed
from forebay.balancing.entry import LocationPolicy, Surroundings, entry_worker, entry_workers
from forebay.balancing.pace import Paces
from forebay.balancing.placement import Placement, ranking
from forebay.balancing.selection import Load, LoadTable, choose, pressure
from forebay.contracts.members import owns_blocks

__all__ = [
    "Load",
    "LoadTable",
    "LocationPolicy",
    "Owed",
    "Paces",
    "Placement",
    "Surroundings",
    "choose",
    "entry_worker",
    "entry_workers",
    "owns_blocks",
    "pressure",
    "ranking",
]
