"""Losses of heads, and their weighted sum."""
