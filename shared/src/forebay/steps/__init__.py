"""Which step of a training waited for what. Five lines more:

    from forebay.steps import Steps
    with Steps("/tmp/steps") as steps:
        for epoch in range(90):
            for batch in steps(loader, epoch=epoch, images=256):
                train(batch)

or, where a framework owns the loop, ``steps.waiting()`` and ``steps.ready(images)`` from its callbacks. Afterwards
``forebay report /tmp/steps`` says how many images/s were lost, and to what. Each rank has a folder of its own.
"""

from forebay.steps.attribution import CAUSES, Cause, Stretch, attribute
from forebay.steps.marks import Steps
from forebay.steps.report import EpochReport, Lost, Report, Slow, read_spans, report

__all__ = [
    "CAUSES",
    "Cause",
    "EpochReport",
    "Lost",
    "Report",
    "Slow",
    "Steps",
    "Stretch",
    "attribute",
    "read_spans",
    "report",
]
