"""The command line. Imports no torch until a verb needs it."""
