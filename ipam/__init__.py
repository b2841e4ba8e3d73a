"""Pools and addresses out of the lease: `IpamDriver.*`. Called by `plugin`; knows no kernel."""
