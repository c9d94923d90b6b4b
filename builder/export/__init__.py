"""From layers and config to an image somewhere."""
