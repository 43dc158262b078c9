"""Of Prometheus' ``/api/v1/targets`` on standard input: how many are up of how many; what is wrong goes to stderr."""

from __future__ import annotations

import json
import sys

targets = json.load(sys.stdin)["data"]["activeTargets"]
for target in targets:
    if target["health"] != "up":
        sys.stderr.write(f"{target['scrapeUrl']}: {target['lastError'] or target['health']}\n")
sys.stdout.write(f"{sum(target['health'] == 'up' for target in targets)} of {len(targets)}\n")
