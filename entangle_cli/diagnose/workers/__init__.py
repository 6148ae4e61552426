"""Workers: processes of Ray that measure the batches of one scan."""
