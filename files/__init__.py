"""File helpers that training and tools share. Imports no other package of this repository."""
