"""``forebay doctor``: each switch proved by a measured effect.

``findings`` has the words, ``judges`` decide from numbers alone, ``mount_probes`` and ``cluster_probes`` measure.
"""
