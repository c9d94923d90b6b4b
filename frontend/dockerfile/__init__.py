"""The Dockerfile language: text to typed instructions to a graph."""
