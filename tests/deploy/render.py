"""Renders a chart and validates what it gives, in the environment of the tools: CHART VALUES.json RELEASE [FILE...].

Prints the objects as JSON; what is wrong goes to standard error, with status 1. ``FILE``: plain objects too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

KUBERNETES = "1.32"


def main(chart: str, values: str, release: str, *files: str) -> int:
    """The process; its exit code."""
    loaded = helm_python.Chart.load(chart)
    given = json.loads(Path(values).read_text())
    loaded.validate_schema(given)
    rendered = loaded.render(given, name=release, namespace="training")
    texts = list(rendered.values()) if isinstance(rendered, dict) else [str(rendered)]
    texts = [text for text in texts if isinstance(text, str)] + [Path(file).read_text() for file in files]
    objects = [found for text in texts for found in yaml.safe_load_all(text) if found]
    for found in objects:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    sys.stdout.write(json.dumps(objects))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
