"""Many images looked at once: what cannot be read, what is there twice."""
