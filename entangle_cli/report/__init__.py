"""Records in, text out: each output in its own module, each escaping hostile text for its own medium."""
