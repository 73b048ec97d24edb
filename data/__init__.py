"""Data sets: one family a file, each a function of the folder that holds all data; none downloads anything."""
