"""The nouns that cross folder borders: frozen data without numpy or torch, and no behaviour beyond reading them."""
