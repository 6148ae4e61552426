"""The preference losses, each as the two coefficients that weigh a pair's gradients. Nothing here knows a gradient.

One module a family, by what the family makes of the ratio of the two coefficients; `table` joins them.

Legend of the formulas: `z_c`, `z_r` log-probs of chosen and rejected, summed over the scored response tokens, nats;
`r_c`, `r_r` the same minus the reference's; `n_c`, `n_r` scored tokens; `sigma` the logistic function;
`u = beta (r_c - r_r)`.
"""
