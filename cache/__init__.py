"""What exists: content-addressed data; knows neither Dockerfiles nor processes."""
