"""The preference losses, as the two coefficients that weight a pair's gradients. No gradients are computed here.

One module per family, by the ratio of the two coefficients. `table` joins all families.

Legend of the formulas: `z_c`, `z_r` log-probs of chosen and rejected, summed over the scored response tokens, nats;
`r_c`, `r_r` log-ratios, `z_c` and `z_r` minus the log-probs of the reference; `n_c`, `n_r` numbers of scored tokens;
`sigma` the logistic function; `u = beta (r_c - r_r)`.
"""
