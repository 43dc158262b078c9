"""What the emulated accelerators are: MLPerf Storage's ResNet-50 profiles, and how a run is scaled to this machine.

From the public configurations of that benchmark (mlcommons/storage, ``configs/dlio/workload/resnet50_a100.yaml`` and
``resnet50_h100.yaml``, and ``resnet50_v100.yaml`` of its ``dlio_benchmark``): records of 114,660.07 bytes on average,
1,251 to a TFRecord shard; batches of 400 and a computation of 0.435 s (A100) and 0.224 s (H100), 64 and 0.195 s (V100).
Computation is a sleep, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

RECORD_BYTES = 114_660
RECORDS_PER_SHARD = 1_251
STEPS_MIN = 50
"""Of an epoch: the first batch is not timed, so what is bound by its input looks faster by one in so many."""

NODE_MBPS = 861.0
"""What eight V100s of the starting point take (images/s times bytes of an image)."""


@dataclass(frozen=True)
class Profile:
    """``batch`` images, then ``step_s`` of computation."""

    name: str
    batch: int
    step_s: float

    @property
    def images_per_s(self) -> float:
        """Of one accelerator that never waits."""
        return self.batch / self.step_s


_ALL = (Profile("resnet50-v100", 64, 0.195), Profile("resnet50-a100", 400, 0.435), Profile("resnet50-h100", 400, 0.224))
PROFILES = {p.name: p for p in _ALL}


@dataclass(frozen=True)
class Step:
    """What ``accelerators`` take together: ``batch`` images each, every ``seconds``."""

    profile: Profile
    accelerators: int
    batch: int

    @property
    def images(self) -> int:
        """Of one step, over all."""
        return self.batch * self.accelerators

    @property
    def seconds(self) -> float:
        """Of one step."""
        return self.batch / self.profile.images_per_s

    @property
    def images_per_s(self) -> float:
        """Of accelerators that never wait."""
        return self.profile.images_per_s * self.accelerators


def step_of(profile: Profile, accelerators: int, records: int) -> Step:
    """The profile's own batch and time, or as small a part of both (the same pace) as makes ``STEPS_MIN`` steps of a
    dataset of so many records."""
    return Step(profile, accelerators, max(1, min(profile.batch, records // (STEPS_MIN * accelerators))))
