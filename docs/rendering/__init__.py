"""What is shown in the references without being written there."""
