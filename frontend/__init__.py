"""What is wanted: pure functions from Dockerfile text to a build graph."""
