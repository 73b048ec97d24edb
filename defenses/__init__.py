"""Defenses and nets: one defense or family a file; a defense is a function that gives a model."""
