"""The command line, for people: `main` parses, the other files do."""
