"""Connects data, engine and analysis. Prints nothing and writes nothing.

scan/ measures pairs, forecast/ predicts one optimizer step, processes/ distributes a scan, views/ presents a run.
views/ never imports torch.
"""
