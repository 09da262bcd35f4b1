"""What a site's work costs: benchmarks that `fedprint bench` runs."""
