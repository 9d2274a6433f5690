"""Code that goes wrong on purpose, copied into rendered projects as `competition.planted`."""
