"""Docker networks and endpoints: `NetworkDriver.*`, and the background look at the engine."""
