"""The nouns that cross folder borders: frozen data, no behaviour beyond reading. Only `arrays` imports numpy."""
