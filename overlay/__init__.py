"""This host as a flannel node: config, lease, peers, and the kernel state that follows from them.

Nothing here knows Docker. Called by `ipam` and `driver` (who ask for the lease) and built by `plugin`.
"""
