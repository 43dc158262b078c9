"""Of a master's ``/v1/status`` on standard input: how many workers are live, or with ``--leader`` who leads."""

from __future__ import annotations

import json
import sys

detail = json.load(sys.stdin)["detail"]
if "--leader" in sys.argv:
    sys.stdout.write(f"{detail.get('leader') or 'master-1'}\n")
else:
    members = [value for name, value in detail.items() if name.startswith("member ")]
    sys.stdout.write(f"{sum(m['role'] == 'worker' and m['state'] == 'live' for m in members)}\n")
