"""A service that keeps short notes in memory."""
