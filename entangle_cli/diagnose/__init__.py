"""Where data, engine and analysis meet. Prints nothing, writes nothing.

scan/ measures, forecast/ takes the user's step, processes/ shares a scan, views/ shows a run and never imports torch.
"""
