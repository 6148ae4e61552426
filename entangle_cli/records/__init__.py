"""Data types shared between folders: frozen, with read-only behaviour. Only `arrays` imports numpy."""
