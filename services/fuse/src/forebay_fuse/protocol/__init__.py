"""The FUSE kernel protocol, sans-IO: requests from memoryviews, replies to bytes. No policy, no I/O."""
