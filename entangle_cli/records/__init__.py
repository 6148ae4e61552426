"""The nouns that cross folder borders: frozen data, and no behaviour beyond reading them. Only `arrays` imports numpy."""
