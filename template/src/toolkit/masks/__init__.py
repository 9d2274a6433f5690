"""Masks as run lengths, outlines and connected parts."""
