"""Selections, one record a file (config/selections.py says what a record is); every module here holds a SELECTION."""
