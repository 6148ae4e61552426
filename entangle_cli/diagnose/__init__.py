"""Where data, engine and analysis meet. Prints nothing, writes nothing.

`scan` needs torch; `movements` and `notices` do not, so that `report` and `gate` start fast.
"""
