"""What is asked: rows, preference pairs, token ids, and the checkpoint that reads them."""
