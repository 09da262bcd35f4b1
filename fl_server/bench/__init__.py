"""What a coordinator's work costs: benchmarks that `fedprint bench` runs."""
