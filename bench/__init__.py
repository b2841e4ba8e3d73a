"""What is measured, against which peer, as ratios of one run. `make bench` runs it."""
