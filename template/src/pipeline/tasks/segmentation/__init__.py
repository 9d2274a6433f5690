"""Tasks that say for every pixel what it belongs to."""
